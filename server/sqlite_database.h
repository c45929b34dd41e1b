// SQLite as values and errors: a database, a statement, a transaction.
#pragma once

#include <sqlite3.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/clock.h"
#include "common/hash.h"
#include "common/result.h"

namespace trib::server {

struct CloseDatabase {
  void operator()(sqlite3* database) const { sqlite3_close_v2(database); }
};
struct FinalizeStatement {
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using Database = std::unique_ptr<sqlite3, CloseDatabase>;

inline Error sqlite_error(sqlite3* database, std::string_view what) {
  const int code = database == nullptr ? SQLITE_NOMEM : sqlite3_errcode(database);
  const std::string message = database == nullptr ? "out of memory" : sqlite3_errmsg(database);
  Errc kind = Errc::io_error;
  switch (code) {
    case SQLITE_FULL:
      kind = Errc::no_space;
      break;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      kind = Errc::corrupt;
      break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      kind = Errc::unavailable;
      break;
    case SQLITE_CONSTRAINT:
      kind = Errc::already_exists;
      break;
    default:
      break;
  }
  return {kind, std::string(what) + ": " + message};
}

// One statement: parameters are bound in order at construction; an error shows at the first step.
class Statement {
 public:
  template <typename... Values>
  Statement(sqlite3* database, std::string_view what, const char* sql, const Values&... values)
      : database_(database), what_(what) {
    sqlite3_stmt* statement = nullptr;
    prepared_ = sqlite3_prepare_v2(database, sql, -1, &statement, nullptr) == SQLITE_OK;
    statement_.reset(statement);
    if (prepared_) (bind(values), ...);
  }

  // True if there is a row to read.
  Result<bool> step() {
    if (!prepared_) return sqlite_error(database_, what_);
    const int code = sqlite3_step(statement_.get());
    if (code == SQLITE_ROW) return true;
    if (code == SQLITE_DONE) return false;
    return sqlite_error(database_, what_);
  }
  // For statements without rows; returns how many rows changed.
  Result<int> run() {
    TRIB_ASSIGN([[maybe_unused]] const bool row, step());
    return sqlite3_changes(database_);
  }

  bool is_null(int column) const { return sqlite3_column_type(statement_.get(), column) == SQLITE_NULL; }
  std::int64_t integer(int column) const { return sqlite3_column_int64(statement_.get(), column); }
  bool boolean(int column) const { return integer(column) != 0; }
  double real(int column) const { return sqlite3_column_double(statement_.get(), column); }
  WallTime time(int column) const { return WallTime(Milliseconds(integer(column))); }
  std::optional<WallTime> optional_time(int column) const {
    return is_null(column) ? std::nullopt : std::optional(time(column));
  }
  std::string text(int column) const {
    const auto* bytes = sqlite3_column_text(statement_.get(), column);
    const auto size = static_cast<std::size_t>(sqlite3_column_bytes(statement_.get(), column));
    return bytes == nullptr ? std::string() : std::string(reinterpret_cast<const char*>(bytes), size);
  }
  Sha256 sha256(int column) const {
    Sha256 hash{};
    const auto* bytes = static_cast<const std::uint8_t*>(sqlite3_column_blob(statement_.get(), column));
    if (bytes != nullptr && sqlite3_column_bytes(statement_.get(), column) == static_cast<int>(hash.size()))
      std::copy_n(bytes, hash.size(), hash.begin());
    return hash;
  }

 private:
  // Everything bound outlives the statement's steps or is copied (SQLITE_TRANSIENT).
  void bind(std::int64_t value) { sqlite3_bind_int64(statement_.get(), next_++, value); }
  void bind(std::uint64_t value) { bind(static_cast<std::int64_t>(value)); }
  void bind(int value) { bind(static_cast<std::int64_t>(value)); }
  void bind(bool value) { bind(static_cast<std::int64_t>(value)); }
  void bind(double value) { sqlite3_bind_double(statement_.get(), next_++, value); }
  void bind(WallTime value) { bind(static_cast<std::int64_t>(value.time_since_epoch().count())); }
  void bind(std::string_view value) {
    sqlite3_bind_text(statement_.get(), next_++, value.data(), static_cast<int>(value.size()), SQLITE_TRANSIENT);
  }
  void bind(const std::string& value) { bind(std::string_view(value)); }
  void bind(const Sha256& value) {
    sqlite3_bind_blob(statement_.get(), next_++, value.data(), static_cast<int>(value.size()), SQLITE_TRANSIENT);
  }
  template <typename T>
  void bind(const std::optional<T>& value) {
    if (value) {
      bind(*value);
    } else {
      sqlite3_bind_null(statement_.get(), next_++);
    }
  }

  sqlite3* database_;
  std::string what_;
  std::unique_ptr<sqlite3_stmt, FinalizeStatement> statement_;
  bool prepared_ = false;
  int next_ = 1;
};

// Rolled back on destruction unless commit() has succeeded.
class Transaction {
 public:
  static Result<Transaction> begin(sqlite3* database, std::string_view what) {
    if (sqlite3_exec(database, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr) != SQLITE_OK)
      return sqlite_error(database, what);
    return Transaction(database, what);
  }
  Transaction(Transaction&& other) noexcept
      : database_(std::exchange(other.database_, nullptr)), what_(std::move(other.what_)) {}
  Transaction& operator=(Transaction&&) = delete;
  ~Transaction() {
    if (database_ != nullptr) sqlite3_exec(database_, "ROLLBACK", nullptr, nullptr, nullptr);
  }
  Status commit() {
    if (sqlite3_exec(database_, "COMMIT", nullptr, nullptr, nullptr) != SQLITE_OK)
      return sqlite_error(database_, what_);
    database_ = nullptr;
    return {};
  }

 private:
  Transaction(sqlite3* database, std::string_view what) : database_(database), what_(what) {}
  sqlite3* database_;
  std::string what_;
};

}  // namespace trib::server
