// `trib-client join`: one command makes a directory into a site of a federation.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "client/site_config.h"
#include "common/clock.h"
#include "common/result.h"

namespace trib::client {

struct JoinRequest {
  std::string token;
  SiteDirectory directory;
  std::filesystem::path data;
  std::string data_set = "default";
  std::int64_t records = 0;  // declared size; 0: not given, which is an error that says how to choose it
  double epsilon_cap = 8.0;
  std::optional<double> delta;  // default: 1e-5, or 1/(10·records) where that is smaller
  std::vector<std::filesystem::path> models;
  std::string device = "auto";
  bool allow_non_private = false;
};

struct JoinResult {
  std::string site, federation;
  WallTime certificate_expires{};
  bool kept_config = false;  // the directory had a client.toml, which says what it said
};

// Checks everything that can be checked here first, since a token works once; then makes the key, fetches the
// certificate over TLS pinned to the CA in the token, and writes client.toml. May be repeated with the same token after
// any failure: the key is on disk before the aggregator hears of it, and the same key gets the same certificate. An
// existing client.toml is not overwritten. Errc::invalid_argument: not a token, or one that was cut short;
// deadline_exceeded: it has expired; already_exists: it was used with another key; unauthenticated: whoever answers is
// not the aggregator of the token.
Result<JoinResult> join(const JoinRequest& request, const Clock& clock, Milliseconds timeout);

}  // namespace trib::client
