// Who may read the HTTP API, and who may change something through it: tokens of two roles, made by `trib token`.
//
// A token is "trib-view." or "trib-op." and 256 random bits in base64url. It is shown once; the store keeps its
// SHA-256, which is enough for a secret that nobody can guess.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/random.h"
#include "common/result.h"
#include "server/store.h"

namespace trib::server {

// create(), revoke(), list() and save_uses() on one thread; find() and is_live() on any.
class AccessTokens {
 public:
  // `store` and `clock` outlive it.
  static Result<std::unique_ptr<AccessTokens>> open(Store& store, const Clock& clock);

  // The new token, which is kept nowhere. Errc::invalid_argument for a bad name, already_exists if a token that is not
  // revoked has the name.
  Result<std::string> create(std::string_view name, bool is_operator);
  // From now on the token opens nothing, nor do browser sessions that were opened with it. Errc::not_found.
  Status revoke(std::string_view name);

  // The token that this text is, if it is one and not revoked, and notes (to the minute) that it was used. Compares
  // with every token, in time that says nothing about them.
  std::optional<AccessTokenRecord> find(std::string_view token);
  // Whether the token with this digest is still good.
  bool is_live(const Sha256& token_sha256) const;
  std::vector<AccessTokenRecord> list() const;  // oldest first
  // Writes down what find() has remembered. The daemon does it every tick.
  void save_uses();

 private:
  AccessTokens(Store& store, const Clock& clock, std::vector<AccessTokenRecord> tokens)
      : store_(&store), clock_(&clock), tokens_(std::move(tokens)) {}

  Store* store_;
  const Clock* clock_;
  mutable std::mutex mutex_;  // of what follows; never held while the store writes
  std::vector<AccessTokenRecord> tokens_;
  std::set<Sha256> used_;  // since save_uses()
};

// 256 bits from the operating system, in base64url: 43 characters.
std::string random_secret();

}  // namespace trib::server
