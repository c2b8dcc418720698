// SPDX-License-Identifier: Apache-2.0
// libFuzzer target: any text as config.json, as the process of `exec --process`, and as resources.
#include "runsc-cli/spec/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  (void)cli::parse_spec(text, "config.json", "/bundle");
  (void)cli::parse_process(text, "process");
  (void)cli::parse_resources(text, "resources");
  return 0;
}
