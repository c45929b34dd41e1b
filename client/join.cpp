#include "client/join.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <optional>
#include <system_error>

#include "client/identity.h"
#include "common/files.h"
#include "common/net/enrolment.h"

namespace trib::client {
namespace {

namespace asio = boost::asio;
namespace proto = tributary::proto;

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

Status check_expiry(const proto::Invite& invite, WallTime now) {
  const WallTime expires = from_unix(invite.expires_unix());
  if (now < expires) return {};
  return Error{
      Errc::deadline_exceeded,
      fmt::format("the token expired at {} (this machine's clock says {}): ask the operator for a new one (`trib "
                  "invite {}`)",
                  to_iso8601(expires), to_iso8601(now), invite.site())};
}

Result<net::Enrolment> redeem(const proto::Invite& invite, const net::PrivateKey& key, Milliseconds timeout) {
  asio::io_context context(1);
  std::optional<Result<net::Enrolment>> result;
  asio::co_spawn(
      context,
      [&]() -> asio::awaitable<void> {
        result.emplace(co_await net::enrol(context.get_executor(), invite, key, timeout));
      },
      [](std::exception_ptr thrown) {
        if (thrown) std::rethrow_exception(thrown);
      });
  context.run();
  return std::move(*result);
}

}  // namespace

Result<JoinResult> join(const JoinRequest& request, const Clock& clock, Milliseconds timeout) {
  TRIB_ASSIGN(const proto::Invite invite, net::parse_token(request.token));
  TRIB_TRY(check_expiry(invite, clock.wall_now()));
  TRIB_ASSIGN(const SiteConfig config, make_config(request, invite));
  TRIB_TRY(make_directories(request.directory.root, 0700));
  TRIB_ASSIGN(const FileLock lock, FileLock::acquire(request.directory.lock()));
  TRIB_TRY(check_directory(request.directory, invite.site()));

  TRIB_ASSIGN(net::PrivateKey key, load_or_make_key(request.directory));
  TRIB_ASSIGN(net::Enrolment enrolment, redeem(invite, key, timeout));
  Identity identity{std::move(key), std::move(enrolment.certificate), std::move(enrolment.ca)};
  if (identity.site() != invite.site()) {
    return Error{Errc::protocol_error,
                 fmt::format("the aggregator issued a certificate for '{}', the token is for '{}'", identity.site(),
                             invite.site())};
  }
  TRIB_TRY(write_file_durably(request.directory.ca_certificate(), identity.ca.to_pem()));
  TRIB_TRY(accept_certificate(identity, request.directory, identity.certificate.to_pem(), clock));
  std::error_code error;
  const bool has_config = std::filesystem::exists(request.directory.config(), error);
  if (!has_config) TRIB_TRY(write_file_durably(request.directory.config(), render_site_config(config)));
  TRIB_TRY(read_site_config(request.directory.config()));
  return JoinResult{.site = identity.site(),
                    .federation = enrolment.federation,
                    .certificate_expires = identity.certificate.not_after(),
                    .kept_config = has_config};
}

}  // namespace trib::client
