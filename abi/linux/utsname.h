// SPDX-License-Identifier: Apache-2.0
// struct new_utsname: uapi/linux/utsname.h.
#pragma once

namespace abi {

struct NewUtsname {
  char sysname[65] = {}, nodename[65] = {}, release[65] = {}, version[65] = {}, machine[65] = {}, domainname[65] = {};
};
static_assert(sizeof(NewUtsname) == 390);

}  // namespace abi
