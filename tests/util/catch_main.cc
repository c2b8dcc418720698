// SPDX-License-Identifier: Apache-2.0
// The one slow piece of Catch2, compiled once for all unit tests.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
