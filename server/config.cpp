#include "server/config.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <array>
#include <boost/asio/ip/address.hpp>
#include <limits>

#include "common/config.h"

namespace trib::server {
namespace {

constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t ten_years_ms = 10LL * 365 * 24 * 3600 * 1000;

Milliseconds read_duration(ConfigReader& reader, std::string_view key, Milliseconds fallback,
                           std::int64_t minimum_ms = 1, std::int64_t maximum_ms = ten_years_ms) {
  return Milliseconds(reader.duration_ms(key, {.minimum = minimum_ms, .maximum = maximum_ms}, fallback.count()));
}

std::uint64_t read_bytes(ConfigReader& reader, std::string_view key, std::uint64_t fallback, std::int64_t minimum) {
  return static_cast<std::uint64_t>(
      reader.integer(key, {.minimum = minimum, .maximum = most}, static_cast<std::int64_t>(fallback)));
}

net::HostPort read_address(ConfigReader& reader, std::string_view key, const std::string& text) {
  auto address = net::parse_host_port(text);
  if (address) return *address;
  reader.fail(key, address.error().message);
  return {};
}

HttpConfig read_http(ConfigReader& reader, const std::filesystem::path& directory) {
  HttpConfig http;
  if (reader.has("http.listen")) http.listen = read_address(reader, "http.listen", reader.text("http.listen"));
  http.tls = reader.boolean("http.tls", http.tls);
  http.allow_plain_text = reader.boolean("http.allow_plain_text", http.allow_plain_text);
  http.open_metrics = reader.boolean("http.open_metrics", http.open_metrics);
  const std::string certificate = reader.text("http.certificate", "");
  const std::string key = reader.text("http.key", "");
  if (certificate.empty() != key.empty())
    reader.fail(certificate.empty() ? "http.key" : "http.certificate",
                "http.certificate and http.key go together: name both files, or neither for the aggregator's own");
  if (!certificate.empty()) http.certificate = directory / certificate;
  if (!key.empty()) http.key = directory / key;
  if (!http.tls && !certificate.empty())
    reader.fail("http.tls", "must be true, as http.certificate is given: without TLS no certificate is used");
  if (http.listen && !http.tls && !http.allow_plain_text && !is_loopback(*http.listen))
    reader.fail("http.listen",
                "is not a loopback address, and http.tls = false: tokens would be sent in the clear. Set http.tls = "
                "true, listen on 127.0.0.1, or, behind a proxy that speaks TLS, set http.allow_plain_text = true");

  http.request_bytes = read_bytes(reader, "http.request_bytes", http.request_bytes, 1024);
  http.header_bytes = read_bytes(reader, "http.header_bytes", http.header_bytes, 1024);
  http.requests_per_minute =
      reader.integer("http.requests_per_minute", {.minimum = 1, .maximum = most}, http.requests_per_minute);
  http.connections = reader.integer("http.connections", {.minimum = 1, .maximum = 100'000}, http.connections);
  http.connections_per_address =
      reader.integer("http.connections_per_address", {.minimum = 1, .maximum = 100'000}, http.connections_per_address);
  http.header_timeout = read_duration(reader, "http.header_timeout", http.header_timeout, 50);
  http.body_timeout = read_duration(reader, "http.body_timeout", http.body_timeout, 50);
  http.idle_timeout = read_duration(reader, "http.idle_timeout", http.idle_timeout, 50);
  http.write_timeout = read_duration(reader, "http.write_timeout", http.write_timeout, 50);
  http.session_lifetime = read_duration(reader, "http.session_lifetime", http.session_lifetime, 1000);
  return http;
}

std::string toml_string(std::string_view text) {
  std::string result(1, '"');
  for (const char character : text) {
    if (character == '"' || character == '\\') result += '\\';
    result += character;
  }
  result += '"';
  return result;
}

template <typename Range, typename ToText>
std::string toml_list(const Range& range, ToText to_text) {
  std::vector<std::string> items;
  for (const auto& item : range) items.push_back(toml_string(to_text(item)));
  return fmt::format("[{}]", fmt::join(items, ", "));
}

}  // namespace

bool is_loopback(const net::HostPort& address) {
  if (address.host == "localhost") return true;
  boost::system::error_code error;
  const auto ip = boost::asio::ip::make_address(address.host, error);
  return !error && ip.is_loopback();
}

Status check_member_name(std::string_view name) {
  const auto is_letter_or_digit = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  const bool is_good =
      !name.empty() && name.size() <= 64 && is_letter_or_digit(name.front()) &&
      std::ranges::all_of(name, [&](char c) { return is_letter_or_digit(c) || c == '.' || c == '-' || c == '_'; });
  if (is_good) return {};
  return Error{Errc::invalid_argument,
               fmt::format("'{}' cannot name a site or an operator: use 1 to 64 letters, digits, '.', '-' and '_', "
                           "starting with a letter or digit",
                           name.substr(0, 80))};
}

Result<ServerConfig> read_server_config(const std::filesystem::path& path) {
  TRIB_ASSIGN(ConfigReader reader, ConfigReader::from_file(path));
  const std::filesystem::path directory = std::filesystem::absolute(path).parent_path();
  ServerConfig config;
  config.federation = reader.text("federation.name");
  if (config.federation.empty() || config.federation.size() > 64)
    reader.fail("federation.name", "must have 1 to 64 bytes: it is the name in the CA's certificate");

  config.listen = read_address(reader, "listen.address", reader.text("listen.address"));
  for (const std::string& text : reader.texts("listen.advertise"))
    config.advertise.push_back(read_address(reader, "listen.advertise", text));
  if (config.advertise.empty()) reader.fail("listen.advertise", "must name at least one host:port that sites can dial");

  config.host_names = reader.texts("tls.host_names", std::vector<std::string>());
  config.site_certificate_lifetime =
      read_duration(reader, "tls.site_certificate_lifetime", config.site_certificate_lifetime, 1000);
  config.server_certificate_lifetime =
      read_duration(reader, "tls.server_certificate_lifetime", config.server_certificate_lifetime, 1000);
  config.renewal_grace = read_duration(reader, "tls.renewal_grace", config.renewal_grace, 0);
  config.invite_lifetime = read_duration(reader, "tls.invite_lifetime", config.invite_lifetime, 1000);

  config.clients = reader.integer("limits.clients", {.minimum = 1, .maximum = 1'000'000}, config.clients);
  config.connections_per_minute =
      reader.integer("limits.connections_per_minute", {.minimum = 1, .maximum = most}, config.connections_per_minute);
  config.enrolments_per_minute =
      reader.integer("limits.enrolments_per_minute", {.minimum = 1, .maximum = most}, config.enrolments_per_minute);
  config.messages_per_second =
      reader.integer("limits.messages_per_second", {.minimum = 10, .maximum = 1'000'000}, config.messages_per_second);
  config.transfer_bytes = read_bytes(reader, "limits.transfer_bytes", config.transfer_bytes, 1);
  config.staging_memory_bytes = read_bytes(reader, "limits.staging_memory_bytes", config.staging_memory_bytes, 0);
  config.staging_disk_bytes = read_bytes(reader, "limits.staging_disk_bytes", config.staging_disk_bytes, 0);
  config.channel.message_bytes =
      static_cast<std::size_t>(reader.integer("limits.message_bytes", {.minimum = 64 << 10, .maximum = 1 << 30},
                                              static_cast<std::int64_t>(config.channel.message_bytes)));
  config.channel.idle_timeout = read_duration(reader, "limits.idle_timeout", config.channel.idle_timeout);
  config.channel.write_timeout = read_duration(reader, "limits.write_timeout", config.channel.write_timeout);
  config.channel.handshake_timeout =
      read_duration(reader, "limits.handshake_timeout", config.channel.handshake_timeout);

  config.heartbeat_interval =
      read_duration(reader, "sessions.heartbeat_interval", config.heartbeat_interval, 50, 60'000);
  config.drain_timeout = read_duration(reader, "sessions.drain_timeout", config.drain_timeout, 0);
  if (config.channel.idle_timeout < 2 * config.heartbeat_interval)
    reader.fail("limits.idle_timeout",
                "must be at least twice sessions.heartbeat_interval, or healthy sites are cut off");

  config.device = reader.text("tasks.device", config.device);
  for (const std::string& text : reader.texts("tasks.models", std::vector<std::string>{"models"}))
    config.models.push_back(directory / text);
  config.data = directory / reader.text("tasks.data", "data");
  config.workers = reader.integer("tasks.workers", {.minimum = 1, .maximum = 64}, config.workers);

  for (const std::string& name : reader.tables("budget")) {
    privacy::Budget budget{.data_set = name};
    budget.epsilon =
        reader.number("budget." + name + ".epsilon", {.minimum = 0.0, .maximum = 1e6, .exclude_minimum = true});
    budget.delta = reader.number("budget." + name + ".delta",
                                 {.minimum = 0.0, .maximum = 1e-2, .exclude_minimum = true}, budget.delta);
    config.budgets.push_back(std::move(budget));
  }

  config.http = read_http(reader, directory);

  constexpr std::array<std::string_view, 5> levels = {"trace", "debug", "info", "warn", "error"};
  constexpr std::array<std::string_view, 2> formats = {"text", "json"};
  config.log_level = reader.choice("log.level", levels, config.log_level);
  config.log_format = reader.choice("log.format", formats, "text") == "json" ? LogFormat::json : LogFormat::text;
  TRIB_TRY(reader.finish());
  return config;
}

std::string render_server_config(const ServerConfig& config) {
  constexpr std::string_view what = "# the dashboard and the HTTP API; tokens: `trib token create`";
  const std::string http_listen =
      config.http.listen ? fmt::format("listen = {}        {}\n", toml_string(config.http.listen->to_string()), what)
                         : fmt::format("# listen = \"127.0.0.1:7480\"               {}\n", what);
  const auto same = [](const std::string& text) { return text; };
  const auto address = [](const net::HostPort& host_port) { return host_port.to_string(); };
  const auto path = [](const std::filesystem::path& file) { return file.string(); };
  return fmt::format(
      R"(# An aggregator of Tributary. Relative paths are relative to this file's directory.

[federation]
name = {}

[listen]
address = {}        # where trib-server listens
advertise = {}      # what sites dial; goes into every token of `trib invite`

[tls]
# Names and addresses in the aggregator's certificate, besides localhost. Restart after a change: the certificate is
# issued anew, the CA stays what it is.
host_names = {}
# site_certificate_lifetime = "30d"      # sites renew by themselves in the last third
# renewal_grace = "60d"                  # a site that was away longer needs a new invite
# invite_lifetime = "24h"

[tasks]
models = {}         # searched for base models, which jobs name by SHA-256
data = {}           # public test sets: relative paths in job files are relative to this
device = {}         # auto, cpu, cuda, cuda:1
# workers = 1                            # threads that aggregate and evaluate

[sessions]
# heartbeat_interval = "15s"
# drain_timeout = "60s"                  # how long SIGTERM waits for uploads that are under way

[http]
{}tls = {}                             # with the aggregator's own certificate, unless the next two name another
# certificate = "fullchain.pem"          # PEM; read again when the file changes
# key = "privkey.pem"
# allow_plain_text = false               # tls = false on an address others can reach: behind a TLS proxy only
# open_metrics = false                   # /metrics without a token
# requests_per_minute = 600              # from one address; behind a proxy all come from one
# request_bytes = 1048576                # of one request's body
# header_bytes = 16384
# connections = 256                      # at once
# connections_per_address = 64
# header_timeout = "10s"
# body_timeout = "30s"
# idle_timeout = "60s"
# write_timeout = "30s"
# session_lifetime = "12h"               # of a browser's session, from its sign-in

[limits]
# clients = 10000                        # sessions at once
# connections_per_minute = 600           # from one address
# enrolments_per_minute = 30             # from one address
# messages_per_second = 200              # of one session
# message_bytes = 4194304                # one control message
# transfer_bytes = 68719476736           # one contribution
# staging_memory_bytes = 536870912       # contributions under way; beyond it they wait on disk
# staging_disk_bytes = 68719476736
# idle_timeout = "60s"
# write_timeout = "60s"
# handshake_timeout = "10s"

[log]
level = {}
format = {}         # text, json
)",
      toml_string(config.federation), toml_string(config.listen.to_string()), toml_list(config.advertise, address),
      toml_list(config.host_names, same), toml_list(config.models, path), toml_string(config.data.string()),
      toml_string(config.device), http_listen, config.http.tls, toml_string(config.log_level),
      toml_string(config.log_format == LogFormat::json ? "json" : "text"));
}

}  // namespace trib::server
