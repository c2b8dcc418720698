// SPDX-License-Identifier: Apache-2.0
// Linux error numbers: include/uapi/asm-generic/errno-base.h and errno.h, plus the internal restart
// codes of include/linux/errno.h. The internal ones (>= 512) never reach a guest: dispatch turns them
// into EINTR or restarts the call.
#pragma once

#include <cstdint>

namespace abi {

enum class Errno : uint16_t {
  kEPERM = 1, kENOENT = 2, kESRCH = 3, kEINTR = 4, kEIO = 5, kENXIO = 6, kE2BIG = 7, kENOEXEC = 8,
  kEBADF = 9, kECHILD = 10, kEAGAIN = 11, kENOMEM = 12, kEACCES = 13, kEFAULT = 14, kENOTBLK = 15,
  kEBUSY = 16, kEEXIST = 17, kEXDEV = 18, kENODEV = 19, kENOTDIR = 20, kEISDIR = 21, kEINVAL = 22,
  kENFILE = 23, kEMFILE = 24, kENOTTY = 25, kETXTBSY = 26, kEFBIG = 27, kENOSPC = 28, kESPIPE = 29,
  kEROFS = 30, kEMLINK = 31, kEPIPE = 32, kEDOM = 33, kERANGE = 34, kEDEADLK = 35, kENAMETOOLONG = 36,
  kENOLCK = 37, kENOSYS = 38, kENOTEMPTY = 39, kELOOP = 40, kENOMSG = 42, kEIDRM = 43, kECHRNG = 44,
  kEL2NSYNC = 45, kENOSTR = 60, kENODATA = 61, kETIME = 62, kENOSR = 63, kENOLINK = 67, kEPROTO = 71,
  kEMULTIHOP = 72, kEBADMSG = 74, kEOVERFLOW = 75, kEBADFD = 77, kELIBBAD = 80, kEILSEQ = 84,
  kERESTART = 85, kEUSERS = 87, kENOTSOCK = 88, kEDESTADDRREQ = 89, kEMSGSIZE = 90, kEPROTOTYPE = 91,
  kENOPROTOOPT = 92, kEPROTONOSUPPORT = 93, kESOCKTNOSUPPORT = 94, kEOPNOTSUPP = 95, kEPFNOSUPPORT = 96,
  kEAFNOSUPPORT = 97, kEADDRINUSE = 98, kEADDRNOTAVAIL = 99, kENETDOWN = 100, kENETUNREACH = 101,
  kENETRESET = 102, kECONNABORTED = 103, kECONNRESET = 104, kENOBUFS = 105, kEISCONN = 106,
  kENOTCONN = 107, kESHUTDOWN = 108, kETOOMANYREFS = 109, kETIMEDOUT = 110, kECONNREFUSED = 111, kEHOSTDOWN = 112,
  kEHOSTUNREACH = 113, kEALREADY = 114, kEINPROGRESS = 115, kESTALE = 116, kEDQUOT = 122,
  kENOMEDIUM = 123, kECANCELED = 125, kENOKEY = 126, kEKEYEXPIRED = 127, kEOWNERDEAD = 130,
  kENOTRECOVERABLE = 131, kEHWPOISON = 133,

  // Internal: restart after a signal (see signal(7), "Interruption of system calls").
  kERESTARTSYS = 512,            // restart if the handler has SA_RESTART, else EINTR
  kERESTARTNOINTR = 513,         // always restart
  kERESTARTNOHAND = 514,         // restart only if no handler ran
  kENOIOCTLCMD = 515,            // becomes ENOTTY
  kERESTART_RESTARTBLOCK = 516,  // restart through restart_syscall(2)
};

// True for codes that must never be seen by a guest.
constexpr bool is_internal(Errno e) { return static_cast<uint16_t>(e) >= 512; }

// "ENOENT" and so on; "E?" for a number without a name. Defined in base/core/errno.cc.
const char* errno_name(Errno e);

}  // namespace abi
