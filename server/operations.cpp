#include "server/operations.h"

#include <spdlog/spdlog.h>

#include <boost/json.hpp>

#include "common/log.h"
#include "common/net/enrolment.h"
#include "server/background.h"

namespace trib::server {
namespace {

namespace asio = boost::asio;
namespace json = boost::json;

constexpr std::uint64_t most_valid_minutes = 30 * 24 * 60;

json::value time_or_null(const std::optional<WallTime>& time) {
  return time ? json::value(to_iso8601(*time)) : json::value(nullptr);
}

std::string_view role_of(bool is_operator) {
  return is_operator ? "operator" : "viewer";
}

}  // namespace

Operations::Operations(const SessionServices& services, Sessions& sessions, AccessTokens& tokens, WorkQueue& background,
                       asio::any_io_executor executor, std::vector<net::HostPort> addresses)
    : services_(services),
      sessions_(sessions),
      tokens_(tokens),
      background_(background),
      executor_(std::move(executor)),
      addresses_(std::move(addresses)),
      started_(services.clock->now()) {}

std::string Operations::status() const {
  json::array addresses;
  for (const net::HostPort& address : addresses_) addresses.emplace_back(address.to_string());
  const auto uptime = std::chrono::duration<double>(services_.clock->now() - started_).count();
  return json::serialize(json::object{{"federation", services_.config->federation},
                                      {"time", to_iso8601(services_.clock->wall_now())},
                                      {"software_version", TRIBUTARY_VERSION},
                                      {"addresses", std::move(addresses)},
                                      {"uptime_seconds", uptime},
                                      {"draining", sessions_.is_draining()},
                                      {"sessions", sessions_.count()},
                                      {"uploads", sessions_.uploads()},
                                      {"staging_memory_bytes", services_.staging->memory_in_use()},
                                      {"staging_disk_bytes", services_.staging->disk_in_use()},
                                      {"ca_sha256", to_hex(services_.authority->ca_certificate().sha256())},
                                      {"ca_until", to_iso8601(services_.authority->ca_certificate().not_after())}});
}

std::string Operations::tokens() const {
  json::array list;
  for (const AccessTokenRecord& token : tokens_.list())
    list.push_back(json::object{{"name", token.name},
                                {"role", role_of(token.is_operator)},
                                {"created", to_iso8601(token.created)},
                                {"last_used", time_or_null(token.last_used)},
                                {"revoked", time_or_null(token.revoked)}});
  return json::serialize(json::object{{"tokens", std::move(list)}});
}

Result<std::string> Operations::site_statement(const std::string& site) {
  TRIB_ASSIGN(const auto statement, services_.store->statement(site));
  const bool is_asked = request_statement(site);
  if (!statement)
    return Error{
        Errc::not_found,
        fmt::format("'{}' has sent no privacy statement: {}", site,
                    is_asked ? "it is asked for one now; try again in a moment. If none comes, its client.toml "
                               "says share_statement = false, or its client is older"
                             : "it is not connected, or not a site of this federation")};
  return json::serialize(json::object{{"site", site},
                                      {"received", to_iso8601(statement->received)},
                                      {"head_count", statement->head_count},
                                      {"fresh_one_requested", is_asked},
                                      {"statement", statement->text}});
}

Result<std::string> Operations::invite(const std::string& name, bool is_operator, std::uint64_t valid_minutes,
                                       const std::string& by) {
  if (valid_minutes > most_valid_minutes)
    return Error{Errc::invalid_argument, fmt::format("an invite of {} minutes: the longest is {} (30 days)",
                                                     valid_minutes, most_valid_minutes)};
  const Milliseconds valid_for =
      valid_minutes == 0 ? services_.config->invite_lifetime : Milliseconds(std::chrono::minutes(valid_minutes));
  TRIB_ASSIGN(const auto invite, services_.authority->invite(name, is_operator, valid_for, addresses_));
  const std::string expires = to_iso8601(WallTime(std::chrono::seconds(invite.expires_unix())));
  const std::string_view role = is_operator ? "operator" : "site";
  const std::string token = net::make_token(invite);
  log_info({.client = name}, "{} invited '{}' as {}, until {}", by, name, role, expires);
  return json::serialize(
      json::object{{"site", name},
                   {"role", role},
                   {"token", token},
                   {"expires", expires},
                   {"command", is_operator ? "trib operator join " + token + " --dir DIR"
                                           : "trib-client join " + token + " --data FILE --records N"}});
}

Result<std::string> Operations::revoke(const std::string& name, const std::string& reason, const std::string& by) {
  TRIB_TRY(services_.authority->revoke(name, reason));
  const std::string told = "the operator revoked this site" + (reason.empty() ? std::string() : ": " + reason);
  const bool was_connected = sessions_.end(name, Errc::permission_denied, told);
  services_.coordinator->client_revoked(name, reason);
  log_warn({.client = name}, "{} revoked '{}'{}: {}", by, name, was_connected ? ", whose session has ended" : "",
               reason.empty() ? "no reason given" : reason);
  return json::serialize(json::object{{"site", name}, {"revoked", true}, {"session_ended", was_connected}});
}

asio::awaitable<Result<std::string>> Operations::submit(std::string job_file, std::string file_name, std::string by) {
  if (check_job_) {
    // Whatever it finds, submit_job() finds again, and says so.
    const auto check = [this, &job_file, &file_name] {
      try {
        check_job_(job_file, file_name);
      } catch (const std::exception& error) {
        spdlog::error("checking the job file {}: {}", file_name, error.what());
      }
      return true;
    };
    co_await in_background(background_, executor_, check);
  }
  if (sessions_.is_draining()) co_return Error{Errc::unavailable, "the aggregator is shutting down"};
  const auto id = services_.coordinator->submit_job(job_file, file_name);
  if (!id) co_return id.error();
  log_info({.job = *id}, "{} submitted job {}", by, *id);
  co_return json::serialize(json::object{{"id", *id}});
}

Result<std::string> Operations::cancel(const std::string& job, const std::string& reason, const std::string& by) {
  TRIB_TRY(services_.coordinator->cancel_job(job, reason));
  log_info({.job = job}, "{} cancelled job {}: {}", by, job, reason.empty() ? "no reason given" : reason);
  return json::serialize(json::object{{"id", job}, {"state", "cancelled"}});
}

Result<std::string> Operations::create_token(const std::string& name, const std::string& role, const std::string& by) {
  if (role != "viewer" && role != "operator")
    return Error{Errc::invalid_argument, "there is no role '" + role + "': a token is a viewer's or an operator's"};
  TRIB_ASSIGN(const std::string token, tokens_.create(name, role == "operator"));
  spdlog::info("{} made the {}'s token '{}'", by, role, name);
  return json::serialize(json::object{{"name", name}, {"role", role}, {"token", token}});
}

Result<std::string> Operations::revoke_token(const std::string& name, const std::string& by) {
  TRIB_TRY(tokens_.revoke(name));
  spdlog::warn("{} revoked the token '{}'", by, name);
  return json::serialize(json::object{{"name", name}, {"revoked", true}});
}

}  // namespace trib::server
