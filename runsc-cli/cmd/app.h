// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace cli {

// The command line: parses it, runs the subcommand, reports its error. Returns the exit status.
int cli_main(int argc, char** argv);

}  // namespace cli
