// TRIB_TRY and TRIB_ASSIGN (common/result.h) for coroutines.
#pragma once

#include "common/result.h"

#define TRIB_CO_TRY(expression)                              \
  do {                                                       \
    auto trib_try_result = (expression);                     \
    if (!trib_try_result) co_return trib_try_result.error(); \
  } while (false)

#define TRIB_CO_ASSIGN(target, expression) \
  TRIB_CO_ASSIGN_IMPL(TRIB_CONCAT(trib_co_assign_, __LINE__), target, expression)
#define TRIB_CO_ASSIGN_IMPL(temporary, target, expression) \
  auto temporary = (expression);                           \
  if (!temporary) co_return temporary.error();             \
  target = std::move(temporary).value()
