// What a site has written down for itself: where its data is, what may be spent on it, and whom to dial. Nothing here
// ever comes from a job or from the aggregator.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "client/job_runner.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/net/address.h"
#include "common/result.h"

namespace trib::client {

// One site's directory: everything that `trib-client` keeps, under one lock.
struct SiteDirectory {
  std::filesystem::path root;

  std::filesystem::path config() const { return root / "client.toml"; }
  std::filesystem::path lock() const { return root / "client.lock"; }
  std::filesystem::path key() const { return root / "key.pem"; }  // mode 0600; made here, never leaves
  std::filesystem::path certificate() const { return root / "certificate.pem"; }
  std::filesystem::path ca_certificate() const { return root / "ca.pem"; }
  std::filesystem::path ledger() const { return root / "ledger.jsonl"; }
  std::filesystem::path data_secret() const { return root / "data-secret"; }  // key of the data sets' digests
  std::filesystem::path outbox() const { return root / "outbox"; }
  std::filesystem::path constants() const { return root / "constants"; }  // of jobs, by digest: fetched once
  std::filesystem::path status() const { return root / "status.json"; }   // what the daemon last said of itself
};

struct SiteConfig {
  std::string site;                  // the name in its certificate
  std::vector<std::string> servers;  // "host:port", tried in turn
  std::string device = "auto";       // as kernels::open_devices() has it
  bool retry_on_cpu = false;         // train a round whose device failed again on the CPU, under a second charge
  std::vector<std::filesystem::path> models;  // searched for base models by SHA-256
  std::map<std::string, DataSetPolicy, std::less<>> data_sets;

  bool share_statement = true;  // whether the aggregator gets the site's signed privacy statement
  // Where the client's own metrics and health are served; none: nowhere. Only a loopback address, or with
  // metrics.allow_plain_text = true, since there is no TLS.
  std::optional<net::HostPort> metrics_listen;

  Milliseconds connect_timeout{20'000};
  Milliseconds idle_timeout{60'000};
  Milliseconds write_timeout{60'000};
  Milliseconds reconnect_minimum{500};
  Milliseconds reconnect_maximum{60'000};

  std::uint64_t outbox_bytes = std::uint64_t{8} << 30;
  Milliseconds outbox_keep{30LL * 24 * 3600 * 1000};       // an entry whose round is never heard of again
  std::uint64_t transfer_bytes = std::uint64_t{64} << 30;  // one broadcast, or the constants of a job

  std::string log_level = "info";
  LogFormat log_format = LogFormat::text;

  std::vector<privacy::Budget> budgets() const;
};

// Reads and checks client.toml. Relative paths in it are relative to its directory. An unknown key or a bad value is an
// error that names file, line, key and what is accepted; so are a data file that does not exist, a missing `records`
// (with how to choose it) and a budget whose delta is not below 1/records.
Result<SiteConfig> read_site_config(const std::filesystem::path& path);

// The text of a client.toml that read_site_config() reads back, with a comment on every key that a site's owner may
// want to change. Durations and limits stay at their defaults.
std::string render_site_config(const SiteConfig& config);

// How to choose the declared size of a data set: said wherever it is missing.
extern const char* const records_hint;

}  // namespace trib::client
