#include "common/result.h"

#include <gtest/gtest.h>

#include <memory>

namespace trib {
namespace {

Result<int> half_of(int number) {
  if (number % 2 != 0) return Error{Errc::invalid_argument, std::to_string(number) + " is odd"};
  return number / 2;
}

Status is_even(int number) {
  TRIB_TRY(half_of(number));
  return {};
}

Result<int> quarter_of(int number) {
  TRIB_ASSIGN(const int half, half_of(number));
  int quarter = 0;
  TRIB_ASSIGN(quarter, half_of(half));
  return quarter;
}

TEST(Result, PassesValuesAndErrorsOn) {
  EXPECT_EQ(quarter_of(12).value(), 3);
  EXPECT_EQ(quarter_of(5).error().message, "5 is odd");
  EXPECT_EQ(quarter_of(6).error().message, "3 is odd");
  EXPECT_TRUE(is_even(4).ok());
  EXPECT_EQ(is_even(3).error().code, Errc::invalid_argument);
}

TEST(Result, MovesValuesThatCannotBeCopied) {
  Result<std::unique_ptr<int>> result(std::make_unique<int>(7));
  const std::unique_ptr<int> taken = std::move(result).value();
  EXPECT_EQ(*taken, 7);
}

TEST(Result, ThrowsWhereThereIsNoValue) {
  try {
    quarter_of(5).value();
    FAIL() << "no exception";
  } catch (const FatalError& error) {
    EXPECT_STREQ(error.what(), "invalid argument: 5 is odd");
    EXPECT_EQ(error.error().code, Errc::invalid_argument);
  }
  EXPECT_THROW(is_even(3).value(), FatalError);
}

TEST(Error, TellsItsContextFromTheOutsideIn) {
  const Error error = Error{Errc::io_error, "disk"}.with_context("file").with_context("job");
  EXPECT_EQ(error.message, "job: file: disk");
  EXPECT_EQ(error.code, Errc::io_error);
}

}  // namespace
}  // namespace trib
