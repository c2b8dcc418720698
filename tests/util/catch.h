// SPDX-License-Identifier: Apache-2.0
// Catch2 for tests that include project headers: CHECK means Catch2's from here on. Include it last.
#pragma once

#include "base/core/check.h"
#undef CHECK
#include <catch2/catch.hpp>
