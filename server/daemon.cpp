#include "server/daemon.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <csignal>
#include <thread>

#include "common/files.h"
#include "common/net/listen.h"
#include "common/net/tls.h"
#include "kernels/device.h"
#include "privacy/statement.h"
#include "server/access_tokens.h"
#include "server/admin.h"
#include "server/certificate_authority.h"
#include "server/dashboard/assets.h"
#include "server/enrolment.h"
#include "server/http/api.h"
#include "server/http/listener.h"
#include "server/metrics.h"
#include "server/operations.h"
#include "server/privacy_report.h"
#include "server/rate_limit.h"
#include "server/session.h"
#include "server/sqlite_store.h"
#include "server/staging.h"
#include "server/state_files.h"
#include "server/worker_pool.h"
#include "tasks/progress.h"

namespace trib::server {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using asio::local::stream_protocol;
using boost::system::error_code;

constexpr Milliseconds tick_interval{250};
constexpr Milliseconds drain_check{50};
constexpr Milliseconds goodbye_patience{2'500};
constexpr Milliseconds accept_retry{200};

// A request before a certificate is known needs little.
net::Limits enrolment_limits(net::Limits limits) {
  limits.message_bytes = 64u << 10;
  limits.idle_timeout = limits.write_timeout = limits.handshake_timeout;
  return limits;
}

// Mode 0600 before anybody can connect: the directory above is the owner's alone too.
Result<stream_protocol::acceptor> listen_on_unix(asio::io_context& context, const std::filesystem::path& path) {
  if (path.string().size() >= sizeof(sockaddr_un::sun_path))
    return Error{Errc::invalid_argument, "the socket " + path.string() +
                                             " would have a longer name than the system allows: use a directory with "
                                             "a shorter path"};
  std::error_code ignored;
  std::filesystem::remove(path, ignored);  // of a process that is gone: the directory's lock is ours
  stream_protocol::acceptor acceptor(context);
  error_code error;
  const mode_t previous = ::umask(0177);
  acceptor.open(stream_protocol(), error);
  if (!error) acceptor.bind(stream_protocol::endpoint(path.string()), error);
  ::umask(previous);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) return Error{Errc::io_error, "listening on " + path.string() + ": " + error.message()};
  return acceptor;
}

Result<std::optional<std::string>> newest_statement(Store& store, const std::string& site) {
  TRIB_ASSIGN(auto statement, store.statement(site));
  if (!statement) return std::optional<std::string>();
  return std::optional(std::move(statement->text));
}

}  // namespace

struct Daemon::Impl {
  Impl(ServerDirectory where, ServerConfig what)
      : directory(std::move(where)),
        config(std::move(what)),
        limiter(config.connections_per_minute),
        enrolment_limiter(config.enrolments_per_minute) {}

  Status open(CoordinatorOptions options);
  Status listen();
  Status listen_to_http();
  asio::awaitable<void> accept_sites();
  asio::awaitable<void> accept_operators();
  asio::awaitable<void> serve(tcp::socket socket);
  asio::awaitable<void> tick();
  asio::awaitable<void> beat();
  asio::awaitable<void> renew_own_certificate();
  asio::awaitable<void> wait_for_signal();
  asio::awaitable<void> drain();
  void begin_drain(std::string_view reason);
  asio::awaitable<void> sleep(Milliseconds duration);

  ServerDirectory directory;
  ServerConfig config;
  std::optional<FileLock> lock;
  // Declared before the other, whose coroutines may hold what belongs to it: a request that waits for the daemon.
  asio::io_context http_context{1};
  asio::io_context context{1};
  RateLimiter limiter, enrolment_limiter;
  ChaCha20Random random{RandomKey::from_system()};
  std::unique_ptr<SqliteStore> store;
  std::unique_ptr<DirectoryStateFiles> state_files;
  std::unique_ptr<Staging> staging;
  std::optional<CertificateAuthority> authority;
  std::shared_ptr<net::TlsServerContext> tls;
  Sessions sessions;
  std::unique_ptr<privacy::Ledger> ledger;  // of jobs whose noise is the aggregator's
  // The coordinator uses the pool, whose work uses the coordinator's jobs: the pool is joined first.
  PrivacyPlans plans;
  Metrics metrics{system_clock()};
  std::unique_ptr<Coordinator> coordinator;
  std::unique_ptr<WorkerPool> workers;
  std::unique_ptr<AccessTokens> tokens;
  std::unique_ptr<Operations> operations;
  std::unique_ptr<Admin> admin;
  std::unique_ptr<SqliteStore> reading_store;  // a connection of its own: long reads keep nobody from writing
  std::function<void(http::Sources&)> adjust_sources;
  std::unique_ptr<http::Api> api;
  std::unique_ptr<http::Listener> http;
  // Long reads: reports, a job's first look at its base model. What they use is above, so that they end first.
  std::unique_ptr<WorkerPool> background;
  std::unique_ptr<WorkerPool> http_background;
  std::optional<tcp::acceptor> sites;
  std::optional<stream_protocol::acceptor> operators;
  std::function<void(const std::string&, const std::string&)> check_job;
  bool draining = false;
  std::size_t handshakes = 0;
};

Status Daemon::Impl::open(CoordinatorOptions options) {
  const Clock& clock = system_clock();
  TRIB_ASSIGN(lock, FileLock::acquire(directory.lock()));
  for (const auto& folder : {directory.store().parent_path(), directory.states()})
    TRIB_TRY(make_directories(folder, 0700));
  TRIB_ASSIGN(store, SqliteStore::open(directory.store()));
  TRIB_ASSIGN(state_files, DirectoryStateFiles::open(directory.states()));
  TRIB_ASSIGN(staging, Staging::open(directory.staging(), config.staging_memory_bytes, config.staging_disk_bytes));
  TRIB_ASSIGN(authority, CertificateAuthority::open(directory, config, *store, clock));
  TRIB_ASSIGN(const bool renewed, renew_server_certificate(directory, config, clock));
  if (renewed) spdlog::info("the aggregator's certificate was issued anew");
  TRIB_ASSIGN(const net::ClientCredentials own, load_server_credentials(directory));
  TRIB_ASSIGN(tls, net::TlsServerContext::create(own.certificate, own.key, authority->ca_certificate()));
  tls->set_peer_check([this](const net::PeerIdentity& peer) { return authority->check(peer); });

  tasks::AggregatorContext task_context;
  TRIB_ASSIGN(task_context.device, kernels::open_device(config.device));
  task_context.model_directories = config.models;
  task_context.data_directory = config.data;
  task_context.shared = std::make_shared<tasks::SharedResources>();
  task_context.cache_directory = directory.features();
  task_context.progress = std::make_shared<tasks::LoggedProgress>(clock);
  TRIB_ASSIGN(const std::string ca_key, read_file(directory.ca_key()));
  TRIB_ASSIGN(auto signer, signer_from_pem(ca_key));
  TRIB_ASSIGN(ledger,
              privacy::Ledger::open(directory.ledger(), {config.federation, std::move(signer)}, config.budgets, clock));
  options.ledger = ledger.get();
  options.on_phase = [this](std::string_view phase, double seconds) { metrics.count_phase(phase, seconds); };
  check_job = [context = task_context, read_job = options.read_job, pin_job = options.pin_job](
                  const std::string& text, const std::string& name) {
    if (const auto job = read_job(text, name)) (void)pin_job(*job, context);
  };
  background = std::make_unique<WorkerPool>(1, context);
  TRIB_ASSIGN(tokens, AccessTokens::open(*store, clock));
  workers = std::make_unique<WorkerPool>(static_cast<std::size_t>(config.workers), context);
  coordinator = std::make_unique<Coordinator>(*store, *state_files, std::move(task_context), clock, random, sessions,
                                              *workers, std::move(options));
  return {};
}

Status Daemon::Impl::listen() {
  TRIB_ASSIGN(sites, net::listen_on(context, config.listen, "listen.address"));
  TRIB_ASSIGN(operators, listen_on_unix(context, directory.admin_socket()));
  std::vector<net::HostPort> addresses = config.advertise;
  for (net::HostPort& address : addresses)
    if (address.port == 0) address.port = sites->local_endpoint().port();
  SessionServices services;
  services.coordinator = coordinator.get();
  services.authority = &*authority;
  services.store = store.get();
  services.staging = staging.get();
  services.config = &config;
  services.clock = &system_clock();
  services.plans = &plans;
  sessions.set_services(services);
  MetricsSources counted;
  counted.coordinator = coordinator.get();
  counted.sessions = &sessions;
  counted.staging = staging.get();
  counted.store = store.get();
  counted.plans = &plans;
  counted.clock = &system_clock();
  counted.worker_tasks = [this] { return workers->pending(); };
  counted.own_certificates = [this] {
    std::vector<std::pair<std::string, WallTime>> until{{"ca", authority->ca_certificate().not_after()}};
    if (const auto own = load_server_credentials(directory))
      until.emplace_back("aggregator", own->certificate.not_after());
    return until;
  };
  metrics.set_sources(std::move(counted));
  operations = std::make_unique<Operations>(services, sessions, *tokens, *background, context.get_executor(),
                                            std::move(addresses));
  operations->set_job_check(std::move(check_job));
  admin = std::make_unique<Admin>(services, *operations, *background);
  TRIB_TRY(listen_to_http());
  return coordinator->resume();
}

Status Daemon::Impl::listen_to_http() {
  if (!config.http.listen) return {};
  TRIB_ASSIGN(reading_store, SqliteStore::open(directory.store()));
  http::Sources sources;
  sources.reports.privacy = [this] {
    return privacy_report_json(*reading_store, config.federation, system_clock().wall_now(), plans);
  };
  sources.reports.privacy_history = [this](const std::string& site, const std::string& data_set) {
    return privacy_history_json(*reading_store, site, data_set, system_clock().wall_now(), plans);
  };
  sources.statement = [this](const std::string& site) { return newest_statement(*reading_store, site); };
  sources.statement_page = [this](const std::string& site) -> Result<std::optional<std::string>> {
    TRIB_ASSIGN(const auto text, newest_statement(*reading_store, site));
    if (!text) return std::optional<std::string>();
    TRIB_ASSIGN(const privacy::Statement statement, privacy::read_statement(*text, "the statement of " + site));
    return std::optional(privacy::statement_page(statement));
  };
  sources.files.assign(dashboard_assets().begin(), dashboard_assets().end());
  sources.metrics = [this] { return metrics.text(); };
  sources.count_request = [this](std::string_view route, int status, double seconds) {
    metrics.count_request(route, static_cast<unsigned>(status), seconds);
  };
  sources.check_storage = [this] { return store->set_value("checked", to_iso8601(system_clock().wall_now())); };
  if (adjust_sources) adjust_sources(sources);
  http_background = std::make_unique<WorkerPool>(1, http_context);
  api = std::make_unique<http::Api>(*operations, *coordinator, *tokens, context.get_executor(), *http_background,
                                    http_context.get_executor(), system_clock(), config.http, std::move(sources));
  TRIB_ASSIGN(const net::ClientCredentials own, load_server_credentials(directory));
  TRIB_ASSIGN(http,
              http::Listener::open(http_context, config.http, {own.certificate, own.key, authority->ca_certificate()},
                                   *api, system_clock()));
  return {};
}

asio::awaitable<void> Daemon::Impl::sleep(Milliseconds duration) {
  asio::steady_timer timer(context, duration);
  error_code ignored;
  co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

asio::awaitable<void> Daemon::Impl::accept_sites() {
  while (!draining) {
    error_code error;
    tcp::socket socket = co_await sites->async_accept(asio::redirect_error(asio::use_awaitable, error));
    if (draining) break;
    if (error) {  // out of descriptors, most likely: the sessions that end will free some
      spdlog::error("a connection cannot be accepted: {}", error.message());
      co_await sleep(accept_retry);
      continue;
    }
    const std::string address = socket.remote_endpoint(error).address().to_string();
    if (error || !limiter.take(address, system_clock().now())) {
      if (!error)
        spdlog::warn("a connection from {} is over limits.connections_per_minute = {}", address,
                     config.connections_per_minute);
      continue;
    }
    asio::co_spawn(context, serve(std::move(socket)), asio::detached);
  }
}

asio::awaitable<void> Daemon::Impl::serve(tcp::socket socket) {
  error_code error;
  const auto endpoint = socket.remote_endpoint(error);
  const std::string address = error ? "unknown" : endpoint.address().to_string();
  if (handshakes >= static_cast<std::size_t>(config.clients)) {
    spdlog::warn("{} handshakes are under way (limits.clients): a connection from {} is dropped", handshakes, address);
    co_return;
  }
  ++handshakes;
  auto channel = co_await tls->accept(std::move(socket), config.channel, [this](std::string_view protocol) {
    if (protocol == net::admin_protocol) return Admin::limits(config.channel);
    if (protocol == net::enrol_protocol) return enrolment_limits(config.channel);
    return config.channel;
  });
  --handshakes;
  if (!channel) {
    spdlog::warn("a connection from {} failed: {}", address, channel.error().message);
    co_return;
  }
  const std::string protocol = (*channel)->protocol();
  if (protocol == net::client_protocol) {
    co_await sessions.serve(std::move(*channel));
  } else if (protocol == net::admin_protocol) {
    co_await admin->serve(std::move(*channel));
  } else if (enrolment_limiter.take(address, system_clock().now())) {
    co_await serve_enrolment(std::move(*channel), *authority, config.federation,
                             [this](const std::string& site) { sessions.recheck(site); });
  } else {
    spdlog::warn("an enrolment from {} is over limits.enrolments_per_minute = {}", address,
                 config.enrolments_per_minute);
  }
}

asio::awaitable<void> Daemon::Impl::accept_operators() {
  while (!draining) {
    error_code error;
    stream_protocol::socket socket = co_await operators->async_accept(asio::redirect_error(asio::use_awaitable, error));
    if (draining) break;
    if (error) {
      spdlog::error("an operator's connection cannot be accepted: {}", error.message());
      co_await sleep(accept_retry);
      continue;
    }
    asio::co_spawn(context, admin->serve(net::accept_unix(std::move(socket), Admin::limits(config.channel))),
                   asio::detached);
  }
}

asio::awaitable<void> Daemon::Impl::tick() {
  while (true) {
    co_await sleep(tick_interval);
    coordinator->tick();
    tokens->save_uses();
  }
}

asio::awaitable<void> Daemon::Impl::beat() {
  while (true) {
    co_await sleep(config.heartbeat_interval);
    sessions.beat();
  }
}

asio::awaitable<void> Daemon::Impl::renew_own_certificate() {
  const auto interval =
      std::clamp<Milliseconds>(config.server_certificate_lifetime / 10, Milliseconds(500), std::chrono::hours(1));
  while (true) {
    co_await sleep(interval);
    const auto renewed = renew_server_certificate(directory, config, system_clock());
    Status replaced = renewed ? Status() : Status(renewed.error());
    if (renewed && *renewed) {
      const auto own = load_server_credentials(directory);
      replaced = own ? tls->replace_certificate(own->certificate, own->key) : Status(own.error());
      if (replaced && http)
        replaced = http->replace_certificate({own->certificate, own->key, authority->ca_certificate()});
      if (replaced)
        spdlog::info("the aggregator's certificate is renewed until {}", to_iso8601(own->certificate.not_after()));
    }
    if (!replaced) spdlog::error("the aggregator's certificate is not renewed: {}", replaced.error().message);
  }
}

asio::awaitable<void> Daemon::Impl::wait_for_signal() {
  asio::signal_set signals(context, SIGTERM, SIGINT);
  error_code error;
  const int first = co_await signals.async_wait(asio::redirect_error(asio::use_awaitable, error));
  if (error) co_return;
  begin_drain(first == SIGTERM ? "SIGTERM" : "SIGINT");
  co_await signals.async_wait(asio::redirect_error(asio::use_awaitable, error));
  if (error) co_return;
  spdlog::warn("a second signal: stopping at once");
  context.stop();
}

void Daemon::Impl::begin_drain(std::string_view reason) {
  if (draining) return;
  draining = true;
  spdlog::info("{}: draining: {} sessions, {} uploads under way", reason, sessions.count(), sessions.uploads());
  sessions.drain();
  error_code ignored;
  sites->close(ignored);
  operators->close(ignored);
  if (api) api->drain();  // who asks is still told that we are draining
  asio::co_spawn(context, drain(), asio::detached);
}

asio::awaitable<void> Daemon::Impl::drain() {
  const auto deadline = std::chrono::steady_clock::now() + config.drain_timeout;
  while ((sessions.uploads() > 0 || !workers->is_idle()) && std::chrono::steady_clock::now() < deadline)
    co_await sleep(drain_check);
  if (sessions.uploads() > 0)
    spdlog::warn("{} uploads are cut off after sessions.drain_timeout: the sites send them again", sessions.uploads());
  if (http) http->close();
  sessions.end_all(Errc::unavailable, "the aggregator is shutting down: come back later");
  const auto goodbye = std::chrono::steady_clock::now() + goodbye_patience;
  while ((sessions.serving() > 0 || (http && http->answering() > 0)) && std::chrono::steady_clock::now() < goodbye)
    co_await sleep(drain_check);
  context.stop();
}

Daemon::Daemon(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Daemon::~Daemon() {
  std::error_code ignored;
  if (impl_->operators) std::filesystem::remove(impl_->directory.admin_socket(), ignored);
}

Result<std::unique_ptr<Daemon>> Daemon::start(const ServerDirectory& directory, const ServerConfig& config,
                                              CoordinatorOptions options,
                                              std::function<void(http::Sources&)> adjust_sources) {
  auto impl = std::make_unique<Impl>(directory, config);
  impl->adjust_sources = std::move(adjust_sources);
  TRIB_TRY(impl->open(std::move(options)));
  TRIB_TRY(impl->listen());
  return std::unique_ptr<Daemon>(new Daemon(std::move(impl)));
}

std::uint16_t Daemon::port() const {
  return impl_->sites->local_endpoint().port();
}

std::optional<std::uint16_t> Daemon::http_port() const {
  return impl_->http ? std::optional(impl_->http->port()) : std::nullopt;
}

std::string Daemon::http_url() const {
  return impl_->http ? impl_->http->url() : std::string();
}

void Daemon::run() {
  Impl& impl = *impl_;
  std::thread http_thread;
  const auto http_work = asio::make_work_guard(impl.http_context);
  if (impl.http) {
    impl.http->start();
    http_thread = std::thread([&impl] { impl.http_context.run(); });
  }
  using Coroutine = asio::awaitable<void> (Impl::*)();
  for (const Coroutine coroutine : {&Impl::accept_sites, &Impl::accept_operators, &Impl::tick, &Impl::beat,
                                    &Impl::renew_own_certificate, &Impl::wait_for_signal})
    asio::co_spawn(impl.context, (impl.*coroutine)(), asio::detached);
  impl.context.run();
  impl.http_context.stop();
  if (http_thread.joinable()) http_thread.join();
}

void Daemon::stop() {
  asio::post(impl_->context, [this] { impl_->begin_drain("stop"); });
}

}  // namespace trib::server
