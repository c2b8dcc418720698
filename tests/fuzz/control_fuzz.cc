// SPDX-License-Identifier: Apache-2.0
// libFuzzer target: any text as a message of the control protocol. What decodes must survive its own encoding.
#include <cstdlib>

#include "sentry/control/protocol.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  (void)sentry::control::decode_container(text);
  (void)sentry::control::decode_process(text);
  if (auto sandbox = sentry::control::decode_sandbox(text); sandbox && !sentry::control::decode_sandbox(sentry::control::encode_sandbox(*sandbox))) abort();
  return 0;
}
