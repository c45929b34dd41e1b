#include "server/access_tokens.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "common/hash.h"
#include "server/config.h"

namespace trib::server {
namespace {

constexpr std::string_view viewer_prefix = "trib-view.";
constexpr std::string_view operator_prefix = "trib-op.";
constexpr Milliseconds use_resolution{60'000};  // a write for every request would be too much

}  // namespace

std::string random_secret() {
  return to_base64url(RandomKey::from_system().bytes());
}

Result<std::unique_ptr<AccessTokens>> AccessTokens::open(Store& store, const Clock& clock) {
  TRIB_ASSIGN(auto tokens, store.access_tokens());
  return std::unique_ptr<AccessTokens>(new AccessTokens(store, clock, std::move(tokens)));
}

Result<std::string> AccessTokens::create(std::string_view name, bool is_operator) {
  if (const Status named = check_member_name(name); !named)
    return Error{Errc::invalid_argument, "the name of a token: " + named.error().message};
  const auto has_name = [&](const AccessTokenRecord& token) { return !token.revoked && token.name == name; };
  if (std::ranges::any_of(list(), has_name))
    return Error{Errc::already_exists, "there is a token '" + std::string(name) +
                                           "' already: revoke it first, or give this one another name"};
  const std::string token = std::string(is_operator ? operator_prefix : viewer_prefix) + random_secret();
  AccessTokenRecord record;
  record.token_sha256 = sha256(token);
  record.name = name;
  record.is_operator = is_operator;
  record.created = clock_->wall_now();
  TRIB_TRY(store_->put_access_token(record));
  std::lock_guard lock(mutex_);
  tokens_.push_back(std::move(record));
  return token;
}

Status AccessTokens::revoke(std::string_view name) {
  std::optional<AccessTokenRecord> revoked;
  std::string known;
  for (const AccessTokenRecord& token : list()) {
    if (token.revoked) continue;
    if (token.name == name) revoked = token;
    known += (known.empty() ? "; there are " : ", ") + token.name;
  }
  if (!revoked)
    return Error{Errc::not_found, "there is no token '" + std::string(name) + "' that is not revoked" +
                                      (known.empty() ? "; there are none" : known)};
  revoked->revoked = clock_->wall_now();
  TRIB_TRY(store_->put_access_token(*revoked));
  std::lock_guard lock(mutex_);
  for (AccessTokenRecord& token : tokens_)
    if (token.token_sha256 == revoked->token_sha256) token.revoked = revoked->revoked;
  return {};
}

std::optional<AccessTokenRecord> AccessTokens::find(std::string_view text) {
  const Sha256 digest = sha256(text);
  const WallTime now = clock_->wall_now();
  std::lock_guard lock(mutex_);
  AccessTokenRecord* found = nullptr;
  for (AccessTokenRecord& token : tokens_)
    if (equal_constant_time(token.token_sha256, digest) && !token.revoked) found = &token;
  if (found == nullptr) return std::nullopt;
  if (!found->last_used || now - *found->last_used >= use_resolution || now < *found->last_used) {
    found->last_used = now;
    used_.insert(found->token_sha256);
  }
  return *found;
}

bool AccessTokens::is_live(const Sha256& token_sha256) const {
  std::lock_guard lock(mutex_);
  return std::ranges::any_of(
      tokens_, [&](const AccessTokenRecord& token) { return token.token_sha256 == token_sha256 && !token.revoked; });
}

std::vector<AccessTokenRecord> AccessTokens::list() const {
  std::lock_guard lock(mutex_);
  return tokens_;
}

void AccessTokens::save_uses() {
  std::vector<AccessTokenRecord> used;
  {
    std::lock_guard lock(mutex_);
    for (const AccessTokenRecord& token : tokens_)
      if (used_.contains(token.token_sha256)) used.push_back(token);
    used_.clear();
  }
  for (const AccessTokenRecord& token : used)
    if (const Status noted = store_->put_access_token(token); !noted)
      spdlog::error("that the token '{}' was used is not recorded: {}", token.name, noted.error().message);
}

}  // namespace trib::server
