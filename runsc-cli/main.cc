// SPDX-License-Identifier: Apache-2.0
// One file to install: the name that the binary is executed under chooses the program.
#include <cstring>
#include <string_view>

#include "gofer/main.h"
#include "runsc-cli/cmd/app.h"
#include "sentry/main.h"

int main(int argc, char** argv) {
  std::string_view name = argc > 0 ? argv[0] : "";
  if (name == "runsc-sentry") return sentry::boot_main(argc, argv);
  if (name == gofer::kProcessName) return gofer::server_main(argc, argv);
  return cli::cli_main(argc, argv);
}
