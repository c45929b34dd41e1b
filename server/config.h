// What an aggregator's operator has written down: server.toml, and where things are beside it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/log.h"
#include "common/net/address.h"
#include "common/net/channel.h"
#include "common/result.h"
#include "privacy/ledger.h"

namespace trib::server {

// One federation's directory: everything that `trib-server` keeps, under one lock.
struct ServerDirectory {
  std::filesystem::path root;

  std::filesystem::path config() const { return root / "server.toml"; }
  std::filesystem::path lock() const { return root / "server.lock"; }
  std::filesystem::path ca_certificate() const { return root / "ca" / "ca.pem"; }
  std::filesystem::path ca_key() const { return root / "ca" / "ca.key"; }  // mode 0600: who has it is the federation
  std::filesystem::path certificate() const { return root / "certificate.pem"; }
  std::filesystem::path key() const { return root / "key.pem"; }  // mode 0600
  std::filesystem::path store() const { return root / "store" / "federation.db"; }
  std::filesystem::path states() const { return root / "store" / "states"; }
  std::filesystem::path ledger() const { return root / "store" / "ledger.jsonl"; }  // of noise that is its own
  std::filesystem::path features() const { return root / "features"; }  // of public items; may be deleted at any time
  std::filesystem::path staging() const { return root / "staging"; }    // contributions under way; emptied at start
  std::filesystem::path admin_socket() const { return root / "admin.sock"; }
};

// The HTTP API and the dashboard: [http].
struct HttpConfig {
  std::optional<net::HostPort> listen;     // none: no HTTP at all; port 0: the system chooses
  bool tls = true;                         // with the aggregator's own certificate, or:
  std::filesystem::path certificate, key;  // PEM; both or neither; read again when they change
  bool allow_plain_text = false;           // without TLS on an address that is not a loopback one
  bool open_metrics = false;               // /metrics without a token
  std::uint64_t request_bytes = 1u << 20;  // http.request_bytes: of one request's body
  std::uint64_t header_bytes = 16u << 10;  // http.header_bytes: of one request's head
  std::int64_t requests_per_minute = 600;  // http.requests_per_minute: from one address
  std::int64_t connections = 256;          // http.connections: at once
  std::int64_t connections_per_address = 64;
  Milliseconds header_timeout{10'000};  // http.header_timeout: handshake, and a request's head, from its first byte
  Milliseconds body_timeout{30'000};    // http.body_timeout
  Milliseconds idle_timeout{60'000};    // http.idle_timeout: between two requests
  Milliseconds write_timeout{30'000};   // http.write_timeout: of one answer, or one piece of a stream
  Milliseconds session_lifetime{12LL * 3600 * 1000};  // http.session_lifetime: of a browser's session
};

struct ServerConfig {
  std::string federation;
  net::HostPort listen;                  // port 0: the system chooses
  std::vector<net::HostPort> advertise;  // what tokens tell the sites to dial; port 0 stands for the port listened on
  std::vector<std::string> host_names;   // in the server's certificate, besides localhost and the loopback addresses

  Milliseconds site_certificate_lifetime{30LL * 24 * 3600 * 1000};
  Milliseconds server_certificate_lifetime{30LL * 24 * 3600 * 1000};
  Milliseconds renewal_grace{60LL * 24 * 3600 * 1000};  // how long after its end a site's certificate still renews
  Milliseconds invite_lifetime{24LL * 3600 * 1000};

  std::int64_t clients = 10'000;                           // limits.clients: sessions at once
  std::int64_t connections_per_minute = 600;               // limits.connections_per_minute: from one address
  std::int64_t enrolments_per_minute = 30;                 // limits.enrolments_per_minute: from one address
  std::int64_t messages_per_second = 200;                  // limits.messages_per_second: of one session, on average
  std::uint64_t transfer_bytes = std::uint64_t{64} << 30;  // limits.transfer_bytes: one contribution
  std::uint64_t staging_memory_bytes = std::uint64_t{512}
                                       << 20;  // limits.staging_memory_bytes: all contributions under way
  std::uint64_t staging_disk_bytes = std::uint64_t{64} << 30;  // limits.staging_disk_bytes: those beyond it
  net::Limits channel;                                         // limits.message_bytes and the timeouts

  Milliseconds heartbeat_interval{15'000};
  Milliseconds drain_timeout{60'000};  // how long SIGTERM waits for uploads that are under way

  std::string device = "auto";
  std::vector<std::filesystem::path> models;  // searched for base models by SHA-256
  std::filesystem::path data;                 // relative paths of public test sets in job files are relative to this
  std::int64_t workers = 1;                   // threads that load tasks, aggregate and evaluate

  // [budget.NAME]: what jobs with privacy.noise_by = "aggregator" may spend on a data set of that name, for each
  // person.
  std::vector<privacy::Budget> budgets;

  HttpConfig http;

  std::string log_level = "info";
  LogFormat log_format = LogFormat::text;
};

// Reads and checks server.toml. Relative paths in it are relative to its directory. Errors name file, line and key.
Result<ServerConfig> read_server_config(const std::filesystem::path& path);

// The text of a server.toml that read_server_config() reads back: the keys an operator may want to change, with
// comments. Limits stay at their defaults.
std::string render_server_config(const ServerConfig& config);

// Whether only this machine can reach the address: 127.0.0.0/8, ::1, localhost.
bool is_loopback(const net::HostPort& address);

// Names of sites and operators become file names, certificate subjects and table rows.
// Errc::invalid_argument: 1 to 64 of letters, digits, '.', '-' and '_', starting with a letter or digit.
Status check_member_name(std::string_view name);

}  // namespace trib::server
