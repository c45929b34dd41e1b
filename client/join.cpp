#include "client/join.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <system_error>

#include "client/identity.h"
#include "common/files.h"
#include "common/hash.h"

namespace trib::client {
namespace {

namespace asio = boost::asio;
namespace proto = tributary::proto;

constexpr std::string_view token_prefix = "trib1.";
constexpr double usual_delta = 1e-5;

WallTime from_unix(std::int64_t seconds) {
  return WallTime(std::chrono::seconds(seconds));
}

Result<SiteConfig> make_config(const JoinRequest& request, const proto::Invite& invite) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(request.data, error)) {
    return Error{Errc::not_found, fmt::format("--data: there is no file '{}'", request.data.native())};
  }
  if (request.records < 1) return Error{Errc::invalid_argument, fmt::format("--records: {}", records_hint)};
  if (!(request.epsilon_cap > 0.0)) {
    return Error{Errc::invalid_argument, fmt::format("--epsilon-cap {}: must be above 0", request.epsilon_cap)};
  }
  const double largest_delta = 1.0 / static_cast<double>(request.records);
  privacy::Budget budget{.data_set = request.data_set,
                         .epsilon = request.epsilon_cap,
                         .delta = request.delta.value_or(std::min(usual_delta, largest_delta / 10.0))};
  if (!(budget.delta > 0.0) || budget.delta >= largest_delta) {
    return Error{
        Errc::invalid_argument,
        fmt::format(
            "--delta {:g}: must be above 0 and below 1/records = {:g}: with a larger delta whole records may be "
            "published",
            budget.delta, largest_delta)};
  }
  SiteConfig config;
  config.site = invite.site();
  config.servers.assign(invite.addresses().begin(), invite.addresses().end());
  config.device = request.device;
  for (const auto& models : request.models) {
    if (!std::filesystem::is_directory(models, error)) {
      return Error{Errc::not_found, fmt::format("--models: there is no directory '{}'", models.native())};
    }
    config.models.push_back(std::filesystem::absolute(models, error));
  }
  DataSetPolicy policy;
  policy.file = std::filesystem::absolute(request.data, error);
  policy.declared_records = request.records;
  policy.budget = budget;
  policy.allow_non_private = request.allow_non_private;
  config.data_sets[request.data_set] = policy;
  return config;
}

// The directory may be another site's: its key and ledger must not end up under a second name.
Status check_directory(const SiteDirectory& directory, const std::string& site) {
  std::error_code error;
  if (!std::filesystem::exists(directory.config(), error)) return {};
  TRIB_ASSIGN(const SiteConfig existing, read_site_config(directory.config()));
  if (existing.site == site) return {};
  return Error{Errc::already_exists,
               fmt::format("'{}' belongs to site '{}', and the token is for '{}': give another directory "
                           "with --dir",
                           directory.root.native(), existing.site, site)};
}

Result<proto::EnrolReply> enrol_at_any(const proto::Invite& invite, const net::PrivateKey& key, Milliseconds timeout) {
  Sha256 ca_sha256{};
  std::ranges::copy(invite.ca_sha256(), ca_sha256.begin());
  proto::EnrolRequest request;
  request.set_secret(invite.secret());
  request.set_certificate_request_pem(net::make_certificate_request(key, invite.site()));
  Error last{Errc::unavailable, "the token names no address"};
  for (const std::string& address : invite.addresses()) {
    asio::io_context context(1);
    std::optional<Result<proto::EnrolReply>> reply;
    asio::co_spawn(
        context,
        [&]() -> asio::awaitable<void> {
          reply.emplace(co_await enrol(context.get_executor(), address, ca_sha256, request, timeout));
        },
        [](std::exception_ptr thrown) {
          if (thrown) std::rethrow_exception(thrown);
        });
    context.run();
    if (reply->ok()) return std::move(**reply);
    last = reply->error().with_context(address);
    if (last.code == Errc::permission_denied) return last;  // the aggregator has answered
  }
  return last;
}

}  // namespace

Result<proto::Invite> parse_token(std::string_view token, WallTime now) {
  const auto broken = [](std::string_view problem) {
    return Error{Errc::invalid_argument,
                 fmt::format("the token {}: copy the whole token that `trib invite` printed, and ask the "
                             "operator for a new one if that does not help",
                             problem)};
  };
  while (!token.empty() && std::isspace(static_cast<unsigned char>(token.back())) != 0) token.remove_suffix(1);
  while (!token.empty() && std::isspace(static_cast<unsigned char>(token.front())) != 0) token.remove_prefix(1);
  if (!token.starts_with(token_prefix)) return broken(fmt::format("does not begin with '{}'", token_prefix));
  const auto bytes = from_base64url(token.substr(token_prefix.size()));
  proto::Invite invite;
  if (!bytes || !invite.ParseFromArray(bytes->data(), static_cast<int>(bytes->size())))
    return broken("is cut short or changed");
  if (invite.site().empty() || invite.addresses().empty() || invite.ca_sha256().size() != sizeof(Sha256) ||
      invite.secret().size() != 32) {
    return broken("is incomplete");
  }
  if (now >= from_unix(invite.expires_unix())) {
    return Error{
        Errc::deadline_exceeded,
        fmt::format("the token expired at {} (this machine's clock says {}): ask the operator for a new one (`trib "
                    "invite {}`)",
                    to_iso8601(from_unix(invite.expires_unix())), to_iso8601(now), invite.site())};
  }
  return invite;
}

Result<JoinResult> join(const JoinRequest& request, const Clock& clock, Milliseconds timeout) {
  TRIB_ASSIGN(const proto::Invite invite, parse_token(request.token, clock.wall_now()));
  TRIB_ASSIGN(const SiteConfig config, make_config(request, invite));
  TRIB_TRY(make_directories(request.directory.root, 0700));
  TRIB_ASSIGN(const FileLock lock, FileLock::acquire(request.directory.lock()));
  TRIB_TRY(check_directory(request.directory, invite.site()));

  TRIB_ASSIGN(net::PrivateKey key, load_or_make_key(request.directory));
  TRIB_ASSIGN(const proto::EnrolReply reply, enrol_at_any(invite, key, timeout));

  auto ca = net::Certificate::from_pem(reply.ca_certificate_pem());
  auto certificate = net::Certificate::from_pem(reply.certificate_pem());
  if (!ca || !certificate) {
    return Error{Errc::protocol_error, "the aggregator's answer has no readable certificates: " +
                                           (ca ? certificate.error() : ca.error()).message};
  }
  if (!std::ranges::equal(ca->sha256(), invite.ca_sha256(),
                          [](std::uint8_t a, char b) { return a == static_cast<std::uint8_t>(b); })) {
    return Error{Errc::unauthenticated, "the aggregator's CA is not the one in the token: somebody else answered"};
  }
  Identity identity{std::move(key), std::move(*certificate), std::move(*ca)};
  if (identity.site() != invite.site()) {
    return Error{Errc::protocol_error,
                 fmt::format("the aggregator issued a certificate for '{}', the token is for '{}'", identity.site(),
                             invite.site())};
  }
  TRIB_TRY(write_file_durably(request.directory.ca_certificate(), reply.ca_certificate_pem()));
  TRIB_TRY(accept_certificate(identity, request.directory, reply.certificate_pem(), clock));
  std::error_code error;
  if (!std::filesystem::exists(request.directory.config(), error)) {
    TRIB_TRY(write_file_durably(request.directory.config(), render_site_config(config)));
  }
  TRIB_TRY(read_site_config(request.directory.config()));
  return JoinResult{.site = invite.site(),
                    .federation = invite.federation(),
                    .certificate_expires = identity.certificate.not_after()};
}

}  // namespace trib::client
