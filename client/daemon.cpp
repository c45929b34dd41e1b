#include "client/daemon.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <csignal>

#include "client/backoff.h"
#include "client/identity.h"
#include "client/ledger_gap.h"
#include "client/metrics.h"
#include "client/session.h"
#include "client/site_commands.h"
#include "client/site_jobs.h"
#include "client/site_status.h"
#include "common/files.h"
#include "common/log.h"
#include "common/net/enrolment.h"
#include "common/net/tls.h"
#include "kernels/device.h"
#include "tasks/progress.h"
#include "tasks/task.h"

namespace trib::client {
namespace {

namespace asio = boost::asio;

constexpr auto status_interval = std::chrono::milliseconds(500);
constexpr auto stop_patience = std::chrono::seconds(15);  // for a cancelled training to reach the end of its step

class Daemon final : public SessionHost {
 public:
  Daemon(const SiteConfig& config, const DaemonOptions& options, const Clock& clock, Site& site, Identity identity)
      : config_(config),
        options_(options),
        clock_(clock),
        site_(site),
        identity_(std::move(identity)),
        random_(RandomKey::from_system()),
        backoff_(config.reconnect_minimum, config.reconnect_maximum),
        signals_(context_, SIGTERM, SIGINT),
        retry_timer_(context_),
        status_timer_(context_),
        drain_timer_(context_),
        jobs_(context_.get_executor(), site, options.directory.constants(), [this] { status_changed_ = true; }) {
    if (options.screen >= 0) display_.emplace(options.screen, clock);
  }

  // Errors: a metrics.listen that cannot be listened on.
  Status run() {
    if (config_.metrics_listen) {
      TRIB_ASSIGN(metrics_, MetricsServer::start(context_, *config_.metrics_listen,
                                                 {.metrics = [this] { return metrics_text(); },
                                                  .is_ready = [this] { return connection_.state == "connected"; }}));
      spdlog::info("metrics and health at http://{}:{}", config_.metrics_listen->host, metrics_->port());
    }
    const auto rethrow = [](std::exception_ptr thrown) {
      if (thrown) std::rethrow_exception(thrown);
    };
    asio::co_spawn(context_, dial(), rethrow);
    asio::co_spawn(context_, keep_status(), rethrow);
    asio::co_spawn(context_, wait_for_signals(), rethrow);
    context_.run();
    connection_.state = "stopped";
    connection_.retry_at.reset();
    show_status();
    if (display_) display_->finish();
    return {};
  }

  proto::Hello hello() override {
    proto::Hello hello;
    hello.set_protocol_version(protocol_version);
    hello.set_software_version(TRIBUTARY_VERSION);
    hello.set_device(kernels::describe(site_.devices));
    const privacy::LedgerHead head = site_.ledger->head();
    hello.mutable_ledger_head()->set_count(head.count);
    hello.mutable_ledger_head()->set_hash(head.hash.data(), head.hash.size());
    return hello;
  }

  Status welcomed(const proto::Welcome& welcome) override {
    const auto& head = welcome.known_ledger_head();
    if (head.count() > 0) {
      privacy::LedgerHead known;
      known.count = head.count();
      if (head.hash().size() == known.hash.size())
        std::copy(head.hash().begin(), head.hash().end(), known.hash.begin());
      TRIB_TRY(charge_ledger_gap(site_, known));
    }
    connection_.state = stopping_ ? "draining" : "connected";
    connection_.federation = welcome.federation();
    connection_.problem.clear();
    connection_.retry_at.reset();
    status_changed_ = true;
    spdlog::info("connected to {} of federation '{}'", connection_.server, welcome.federation());
    return {};
  }

  std::optional<std::string> renewal_request() override {
    if (!is_renewal_due(identity_.certificate, clock_.wall_now())) return std::nullopt;
    return net::make_certificate_request(identity_.key, identity_.site());
  }

  Status renewed(const std::string& certificate_pem) override {
    TRIB_TRY(accept_certificate(identity_, options_.directory, certificate_pem, clock_));
    spdlog::info("the certificate was renewed: valid until {}", to_iso8601(identity_.certificate.not_after()));
    status_changed_ = true;
    return {};
  }

 private:
  net::Limits limits() const {
    net::Limits limits;
    limits.idle_timeout = config_.idle_timeout;
    limits.write_timeout = config_.write_timeout;
    return limits;
  }

  // Dials, talks, waits, until stopped.
  asio::awaitable<void> dial() {
    for (std::size_t attempt = 0; !stopping_; ++attempt) {
      connection_.state = "connecting";
      connection_.server = config_.servers[attempt % config_.servers.size()];
      status_changed_ = true;
      const Error error = co_await connect_once(connection_.server);
      if (stopping_) break;
      // What only a person can put right is not asked for again and again.
      const bool is_refused =
          error.code == Errc::permission_denied || error.code == Errc::unauthenticated || error.code == Errc::corrupt;
      const Milliseconds pause = is_refused ? backoff_.longest(random_) : backoff_.next(random_);
      connection_.state = "waiting";
      connection_.problem = error.message;
      connection_.retry_at = clock_.wall_now() + pause;
      status_changed_ = true;
      spdlog::warn("no connection to {}: {}; trying again in {:.1f} s", connection_.server, error.message,
                   std::chrono::duration<double>(pause).count());
      retry_timer_.expires_after(pause);
      boost::system::error_code ignored;
      co_await retry_timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }
    end_if_idle();
  }

  asio::awaitable<Error> connect_once(const std::string& server) {
    if (is_lapsed(identity_.certificate, clock_.wall_now())) {
      if (const Status renewed = co_await renew_lapsed(server); !renewed) {
        co_return renewed.error().with_context("the certificate has lapsed and could not be renewed");
      }
    }
    const net::ClientCredentials credentials{identity_.certificate, identity_.key};
    auto channel = co_await net::connect_tls(context_.get_executor(), server, identity_.ca, &credentials,
                                             net::client_protocol, limits(), config_.connect_timeout);
    if (!channel) co_return channel.error();
    if (stopping_ && !jobs_.is_training()) co_return Error{Errc::cancelled, "stopping"};
    session_ = std::make_shared<Session>(std::move(*channel), jobs_, *this, config_.transfer_bytes);
    Error ended = co_await session_->run();
    if (session_->was_welcomed()) backoff_.reset();
    bytes_sent_ += session_->channel().bytes_sent();
    bytes_received_ += session_->channel().bytes_received();
    session_.reset();
    status_changed_ = true;
    co_return ended;
  }

  asio::awaitable<Status> renew_lapsed(std::string server) {
    const std::vector<std::string> addresses(1, server);
    const net::ClientCredentials lapsed{identity_.certificate, identity_.key};
    auto enrolment =
        co_await net::renew_lapsed(context_.get_executor(), addresses, identity_.ca, lapsed, config_.connect_timeout);
    if (!enrolment) co_return enrolment.error();
    co_return renewed(enrolment->certificate.to_pem());
  }

  asio::awaitable<void> wait_for_signals() {
    boost::system::error_code error;
    while (true) {
      const int signal = co_await signals_.async_wait(asio::redirect_error(asio::use_awaitable, error));
      if (error) co_return;
      if (stopping_) {
        spdlog::info("signal {} again: the round is given up at the next step; its charge is spent", signal);
        jobs_.stop_training();
        drain_timer_.cancel();
        continue;
      }
      spdlog::info("signal {}: stopping{}", signal,
                   jobs_.is_training() ? fmt::format("; the round that is being trained has {} s to finish",
                                                     options_.drain_timeout.count() / 1000)
                                       : "");
      stopping_ = true;
      connection_.state = "draining";
      status_changed_ = true;
      jobs_.drain();
      retry_timer_.cancel();
      asio::co_spawn(
          context_, [this] { return drain(); }, asio::detached);
    }
  }

  // Lets the round that is being trained finish and its contribution arrive, within the drain timeout.
  asio::awaitable<void> drain() {
    const auto busy = [this] { return jobs_.is_training() || (session_ && session_->is_uploading()); };
    boost::system::error_code cancelled;
    const auto deadline = std::chrono::steady_clock::now() + options_.drain_timeout;
    while (busy() && !cancelled && std::chrono::steady_clock::now() < deadline) {
      drain_timer_.expires_after(std::chrono::milliseconds(50));
      co_await drain_timer_.async_wait(asio::redirect_error(asio::use_awaitable, cancelled));
    }
    if (jobs_.is_training()) {
      if (!cancelled) spdlog::warn("the drain timeout is over: the round is given up; its charge is spent");
      jobs_.stop_training();
      const auto end = std::chrono::steady_clock::now() + stop_patience;
      while (jobs_.is_training() && std::chrono::steady_clock::now() < end) {
        drain_timer_.expires_after(std::chrono::milliseconds(20));
        co_await drain_timer_.async_wait(asio::redirect_error(asio::use_awaitable, cancelled));
      }
    }
    drained_ = true;
    if (session_) session_->close("the client is being stopped");
    end_if_idle();
  }

  // With a session, its end comes back here; without one there may be a dial under way, which nobody waits for.
  void end_if_idle() {
    if (drained_ && !session_) context_.stop();
  }

  asio::awaitable<void> keep_status() {
    boost::system::error_code cancelled;
    while (!cancelled) {
      if (status_changed_) show_status();
      status_timer_.expires_after(status_interval);
      co_await status_timer_.async_wait(asio::redirect_error(asio::use_awaitable, cancelled));
    }
  }

  std::string metrics_text() const {
    std::vector<DataSetMetrics> sets;
    for (const auto& [name, policy] : config_.data_sets) {
      constexpr double delta_without_budget = 1e-5;
      const double delta = policy.budget ? policy.budget->delta : delta_without_budget;
      sets.push_back({name, site_.ledger->epsilon_spent(name, delta), policy.budget ? policy.budget->epsilon : 0.0});
    }
    return client_metrics_text(status(), sets, jobs_.rounds(), site_.ledger->head().count);
  }

  SiteStatus status() const {
    SiteStatus status;
    status.site = identity_.site();
    status.device = kernels::describe(site_.devices);
    status.process = ::getpid();
    status.time = clock_.wall_now();
    status.certificate_expires = identity_.certificate.not_after();
    status.connection = connection_;
    status.connection.bytes_sent = bytes_sent_ + (session_ ? session_->channel().bytes_sent() : 0);
    status.connection.bytes_received = bytes_received_ + (session_ ? session_->channel().bytes_received() : 0);
    status.jobs = jobs_.status();
    for (const auto& item : site_.outbox->list()) {
      ++status.outbox_entries;
      status.outbox_bytes += item.bytes;
    }
    return status;
  }

  void show_status() {
    status_changed_ = false;
    const SiteStatus status = this->status();
    if (display_) display_->show(status);
    const Status written = write_status(options_.directory.status(), status);
    if (!written && !status_failed_) spdlog::warn("{}", written.error().message);
    status_failed_ = !written;
  }

  const SiteConfig& config_;
  const DaemonOptions& options_;
  const Clock& clock_;
  Site& site_;
  Identity identity_;
  ChaCha20Random random_;
  Backoff backoff_;
  asio::io_context context_{1};
  asio::signal_set signals_;
  asio::steady_timer retry_timer_, status_timer_, drain_timer_;
  std::optional<ConsoleDisplay> display_;
  ConnectionStatus connection_;
  std::uint64_t bytes_sent_ = 0, bytes_received_ = 0;  // of connections that have ended
  bool status_changed_ = true;
  bool status_failed_ = false;
  bool stopping_ = false;
  bool drained_ = false;
  std::shared_ptr<Session> session_;
  std::unique_ptr<MetricsServer> metrics_;
  SiteJobs jobs_;  // last: its threads are joined before what they report to goes
};

}  // namespace

Status run_daemon(const SiteConfig& config, const DaemonOptions& options, const Clock& clock) {
  const SiteDirectory& directory = options.directory;
  TRIB_ASSIGN(const FileLock lock, FileLock::acquire(directory.lock()));
  TRIB_ASSIGN(Identity identity, load_identity(directory));
  if (identity.site() != config.site) {
    return Error{Errc::invalid_argument,
                 fmt::format("{}: site = \"{}\", but the certificate is '{}''s: put the certificate's name there",
                             directory.config().native(), config.site, identity.site())};
  }
  TRIB_ASSIGN(const auto ledger, open_site_ledger(directory, config, identity.key, clock));
  TRIB_ASSIGN(const auto data_versions, DataVersions::open(directory.data_secret()));
  TRIB_ASSIGN(const std::unique_ptr<Outbox> outbox, Outbox::open(directory.outbox(), config.outbox_bytes));
  TRIB_TRY(outbox->remove_older_than(std::filesystem::file_time_type::clock::now() - config.outbox_keep));
  TRIB_ASSIGN(std::vector<kernels::Device*> devices, kernels::open_devices(config.device));

  set_log_client(config.site);
  Site site;
  site.name = config.site;
  site.devices = std::move(devices);
  site.retry_on_cpu = config.retry_on_cpu;
  site.model_directories = config.models;
  site.shared = std::make_shared<tasks::SharedResources>();
  site.progress = std::make_shared<tasks::LoggedProgress>(clock);
  site.data_sets = config.data_sets;
  site.ledger = ledger.get();
  TRIB_ASSIGN(site.signer, signer_from_pem(identity.key.to_pem()));
  site.share_statement = config.share_statement;
  site.data_versions = data_versions.get();
  site.outbox = outbox.get();
  site.clock = &clock;
  site.find_task = &tasks::find_task;
  spdlog::info("site '{}' on {}; {} entries in the ledger, {} contributions in the outbox", site.name,
               kernels::describe(site.devices), site.ledger->head().count, outbox->list().size());
  return Daemon(config, options, clock, site, std::move(identity)).run();
}

}  // namespace trib::client
