// Expected failures as values. A function that can fail for a reason outside the program (a file, a peer, a
// configuration) returns Result<T>; exceptions mean a bug or a start-up that cannot go on.
#pragma once

#include <cassert>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

namespace trib {

// What kind of failure it was, for code that decides; the message is for people.
enum class Errc {
  invalid_argument,   // a value the caller (or the user) gave is wrong
  not_found,          // a file, key, job or site that does not exist
  already_exists,     // a name that is taken, a token that was used
  io_error,           // the operating system refused
  no_space,           // the disk is full
  corrupt,            // stored bytes are not what was written
  protocol_error,     // the peer broke the protocol
  unauthenticated,    // the peer did not prove who it is
  permission_denied,  // the peer is known and may not do this
  limit_exceeded,     // a configured limit was hit; the message names it
  over_budget,        // the privacy budget does not cover this
  unavailable,        // try again later
  deadline_exceeded,  // a wait reached its bound
  cancelled,          // somebody asked to stop
  unsupported,        // this build or machine cannot do it
  internal,           // a bug
};

std::string_view to_string(Errc code);

// A failure: a kind, and a message that says what was wrong, with which value, and what to do about it.
struct Error {
  Errc code = Errc::internal;
  std::string message;

  // The same failure, seen from further out: "CONTEXT: message".
  [[nodiscard]] Error with_context(std::string_view context) const {
    return {code, std::string(context) + ": " + message};
  }
};

// Thrown by Result::value() on a failure, and where start-up cannot go on.
class FatalError : public std::runtime_error {
 public:
  explicit FatalError(Error error)
      : std::runtime_error(std::string(to_string(error.code)) + ": " + error.message), error_(std::move(error)) {}
  const Error& error() const { return error_; }

 private:
  Error error_;
};

// A T or an Error. Like std::expected, which C++20 lacks.
template <typename T>
class [[nodiscard]] Result {
 public:
  using value_type = T;
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT: implicit by design
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit by design

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // The value; throws FatalError if there is none, so tests and start-up code may call it unchecked.
  T& value() & {
    require();
    return std::get<0>(state_);
  }
  const T& value() const& {
    require();
    return std::get<0>(state_);
  }
  T&& value() && {
    require();
    return std::get<0>(std::move(state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  const Error& error() const {
    assert(!ok());
    return std::get<1>(state_);
  }

 private:
  void require() const {
    if (!ok()) throw FatalError(std::get<1>(state_));
  }
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT: implicit by design

  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  void value() const {
    if (error_) throw FatalError(*error_);
  }
  const Error& error() const {
    assert(error_);
    return *error_;
  }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

#define TRIB_CONCAT_INNER(a, b) a##b
#define TRIB_CONCAT(a, b) TRIB_CONCAT_INNER(a, b)

// Returns the error of `expression` from this function, or goes on.
#define TRIB_TRY(expression)                              \
  do {                                                    \
    auto trib_try_result = (expression);                  \
    if (!trib_try_result) return trib_try_result.error(); \
  } while (false)

// TRIB_ASSIGN(auto x, f()): declares or assigns x from f()'s value, or returns its error from this function.
#define TRIB_ASSIGN(target, expression) TRIB_ASSIGN_IMPL(TRIB_CONCAT(trib_assign_, __LINE__), target, expression)
#define TRIB_ASSIGN_IMPL(temporary, target, expression) \
  auto temporary = (expression);                        \
  if (!temporary) return temporary.error();             \
  target = std::move(temporary).value()

}  // namespace trib
