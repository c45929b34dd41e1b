#include "cli/doctor.h"

#include <spdlog/fmt/fmt.h>
#include <spdlog/fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <cmath>
#include <optional>

#include "cli/terminal.h"
#include "client/data_versions.h"
#include "client/identity.h"
#include "client/site_config.h"
#include "common/files.h"
#include "common/net/tls.h"
#include "kernels/device.h"
#include "privacy/figures.h"
#include "privacy/ledger.h"
#include "server/certificate_authority.h"
#include "server/config.h"
#include "server/sqlite_store.h"

namespace trib::cli {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;
using asio::ip::tcp;

constexpr std::uintmax_t little_space = std::uintmax_t{1} << 30;
constexpr std::uintmax_t no_space = std::uintmax_t{64} << 20;
constexpr double few_days = 3.0;

class Examination {
 public:
  explicit Examination(const DoctorOptions& options) : options_(options) {}

  void add(std::string name, Health health, std::string found, std::string remedy = {}) {
    checks_.push_back({std::move(name), health, std::move(found), health == Health::ok ? "" : std::move(remedy)});
  }
  void fail(std::string name, const Error& error, std::string remedy) {
    add(std::move(name), Health::fail, error.message, std::move(remedy));
  }
  std::vector<Check> take() { return std::move(checks_); }
  const DoctorOptions& options() const { return options_; }

  // The directory and its file system.
  void check_directory(const fs::path& directory) {
    struct stat status {};
    if (::stat(directory.c_str(), &status) != 0 || !S_ISDIR(status.st_mode))
      return add("directory", Health::fail, fmt::format("'{}' is not a directory", directory.native()),
                 "name the right one with --site or --server");
    if (::access(directory.c_str(), R_OK | W_OK | X_OK) != 0)
      return add("directory", Health::fail, fmt::format("'{}' may not be written to by this user", directory.native()),
                 fmt::format("run as its owner, or: chown -R $(id -u) '{}'", directory.native()));
    const bool is_open = (status.st_mode & 077) != 0;
    add("directory", is_open ? Health::warn : Health::ok,
        fmt::format("'{}' can be written to{}", directory.native(), is_open ? ", and is open to other users" : ""),
        fmt::format("chmod 700 '{}'", directory.native()));
    std::error_code error;
    const auto space = fs::space(directory, error);
    if (error) return add("disk", Health::warn, error.message(), "look at the file system");
    const Health health = space.available < no_space       ? Health::fail
                          : space.available < little_space ? Health::warn
                                                           : Health::ok;
    add("disk", health, format_bytes(static_cast<double>(space.available)) + " free",
        "make room: the ledger, contributions and states are written there, and nothing is trained on a full disk");
  }

  void check_certificate(const std::string& name, const net::Certificate& certificate, const std::string& renewal) {
    const WallTime now = options_.clock.wall_now();
    const auto days = [&](WallTime until) {
      return std::chrono::duration<double, std::ratio<86'400>>(until - now).count();
    };
    const double left = days(certificate.not_after());
    if (certificate.not_before() > now)
      return add(name, Health::fail,
                 fmt::format("it is valid from {} on, and this machine's clock says {}",
                             to_iso8601(certificate.not_before()), to_iso8601(now)),
                 "put the clock right: run a time service (timedatectl set-ntp true)");
    if (left < 0.0) return add(name, Health::fail, "it ended at " + to_iso8601(certificate.not_after()), renewal);
    add(name, left < few_days ? Health::warn : Health::ok, fmt::format("{:.1f} days left", left), renewal);
  }

  void check_device(const std::string& name) {
    const auto devices = kernels::open_devices(name);
    if (!devices) return fail("device", devices.error(), "mend the driver, or set device = \"cpu\" or \"auto\"");
    for (kernels::Device* const device : *devices)
      if (const Status works = device->check(); !works)
        return fail("device", works.error(), "restart the process or the machine; device = \"cpu\" goes on without it");
    add("device", Health::ok, kernels::describe(*devices));
  }

  void check_models(const std::vector<fs::path>& directories) {
    for (const fs::path& directory : directories) {
      std::error_code error;
      if (fs::is_directory(directory, error)) {
        add("models", Health::ok, fmt::format("'{}'", directory.native()));
      } else {
        add("models", Health::warn, fmt::format("there is no directory '{}'", directory.native()),
            "make it and put the base models there, or take it out of `models`; jobs that need one are refused");
      }
    }
    if (directories.empty())
      add("models", Health::warn, "no directory is named", "name one in `models`: jobs find their base model there");
  }

 private:
  const DoctorOptions& options_;
  std::vector<Check> checks_;
};

// --- A site ---

void check_ledger(Examination& exam, const client::SiteDirectory& directory, const client::SiteConfig& config,
                  const std::optional<client::Identity>& identity) {
  std::error_code error;
  if (!fs::exists(directory.ledger(), error))
    return exam.add("ledger", Health::ok, "none yet: it begins with the first start of the client");
  const auto figures = privacy::read_figures(directory.ledger());
  if (!figures) {
    const bool is_busy = figures.error().code == Errc::unavailable;
    return exam.add("ledger", is_busy ? Health::warn : Health::fail, figures.error().message,
                    is_busy
                        ? "try again in a moment"
                        : "restore it from a copy and never edit it (docs/deployment.md, \"What a ledger refuses\")");
  }
  if (identity && figures->key_sha256 != to_hex(identity->certificate.public_key_sha256()))
    return exam.add("ledger", Health::fail, "it is signed with another key than the site's",
                    "trib-client ledger rekey --reason …, if the site enrolled anew; else restore the site's own");
  exam.add("ledger", Health::ok,
           fmt::format("{} entries, every hash, signature and cap verified", figures->file.entries.size()));
  for (const privacy::DataSetFigures& set : figures->data_sets) {
    const auto policy = config.data_sets.find(set.name);
    if (policy == config.data_sets.end() || !policy->second.budget) continue;
    const double cap = policy->second.budget->epsilon;
    const std::string name = fmt::format("budget of '{}'", set.name);
    if (!set.is_private()) {
      exam.add(name, Health::warn, "it was read without privacy: no private job is accepted any more",
               "give private jobs another data set");
    } else {
      const double share = set.epsilon_filter / cap;
      exam.add(name, share >= 0.9 ? Health::warn : Health::ok,
               fmt::format("epsilon {:.3f} of {:g} is spent", set.epsilon_filter, cap),
               "rounds will soon be declined: raise the cap deliberately, or end the data set's use");
    }
  }
}

void check_data(Examination& exam, const client::SiteDirectory& directory, const client::SiteConfig& config) {
  std::error_code error;
  std::optional<Result<std::vector<privacy::LedgerEntry>>> entries;
  std::unique_ptr<client::DataVersions> versions;
  if (fs::exists(directory.data_secret(), error)) {
    if (auto opened = client::DataVersions::open(directory.data_secret())) versions = std::move(*opened);
    if (fs::exists(directory.ledger(), error)) entries.emplace(privacy::read_ledger(directory.ledger()));
  }
  for (const auto& [data_set, policy] : config.data_sets) {
    const std::string name = fmt::format("data set '{}'", data_set);
    if (::access(policy.file.c_str(), R_OK) != 0) {
      exam.add(name, Health::fail, fmt::format("'{}' cannot be read by this user", policy.file.native()),
               "let the client's user read it (chmod, chown), or put its path right in client.toml");
      continue;
    }
    if (!policy.budget && !policy.allow_non_private)
      exam.add(name, Health::warn, "it has no budget, so every job on it is refused",
               fmt::format("add [dataset.{}.budget] to client.toml", data_set));
    const privacy::LedgerEntry* newest = nullptr;
    if (entries && *entries)
      for (const privacy::LedgerEntry& entry : **entries)
        if (entry.kind == privacy::EntryKind::data && entry.charge.data_set == data_set) newest = &entry;
    if (newest == nullptr || versions == nullptr) {
      exam.add(name, Health::ok, "readable; the first job on it records its version");
      continue;
    }
    const auto digest = versions->digest_of(policy.file);
    if (!digest) {
      exam.fail(name, digest.error(), "look at the file and its disk");
    } else if (*digest != newest->data_digest) {
      exam.add(name, Health::fail,
               fmt::format("the file has changed since version {} ({})", newest->data_version, newest->time),
               fmt::format("if it is the same data set, stop the client and: trib-client data update {}; otherwise "
                           "give it a name of its own",
                           data_set));
    } else {
      exam.add(name, Health::ok,
               fmt::format("readable, and the version {} that the ledger knows", newest->data_version));
    }
  }
}

// Dials with the site's own certificate and hangs up: the aggregator sees a connection that says nothing.
void check_aggregators(Examination& exam, const client::SiteConfig& config, const client::Identity& identity) {
  const net::ClientCredentials credentials{identity.certificate, identity.key};
  for (const std::string& server : config.servers) {
    asio::io_context context;
    std::optional<Status> reached;
    asio::co_spawn(
        context,
        [&]() -> asio::awaitable<void> {
          auto channel = co_await net::connect_tls(context.get_executor(), server, identity.ca, &credentials,
                                                   net::client_protocol, {}, exam.options().connect_timeout);
          reached.emplace(channel ? Status() : Status(channel.error()));
          if (channel) (*channel)->close();
        },
        [&](std::exception_ptr thrown) {
          if (thrown && !reached) reached.emplace(Error{Errc::internal, "the attempt failed"});
        });
    context.run();
    const std::string name = "aggregator " + server;
    if (*reached) {
      exam.add(name, Health::ok, "reached; both certificates and both clocks agree");
    } else {
      const Errc code = reached->error().code;
      const bool is_identity = code == Errc::unauthenticated || code == Errc::permission_denied;
      exam.fail(name, reached->error(),
                is_identity
                    ? "see the table of refused connections in docs/deployment.md"
                    : "check the address in `servers`, the firewall's way out, and that trib-server runs there");
    }
  }
}

// --- An aggregator ---

bool is_taken(const fs::path& lock) {
  std::error_code error;
  return fs::exists(lock, error) && !FileLock::acquire(lock);
}

// Whether the address can be listened on, or is by the aggregator itself.
void check_port(Examination& exam, const net::HostPort& address, bool is_running) {
  asio::io_context context;
  boost::system::error_code error;
  tcp::resolver resolver(context);
  const auto endpoints = resolver.resolve(address.host, std::to_string(address.port), tcp::resolver::passive, error);
  const std::string name = "port " + address.to_string();
  if (error)
    return exam.add(name, Health::fail, error.message(), "put listen.address right: an address of this machine");
  tcp::acceptor acceptor(context);
  const tcp::endpoint endpoint = *endpoints.begin();
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(1, error);
  const bool is_used = error == asio::error::address_in_use;
  if (is_running && is_used) {
    exam.add(name, Health::ok, "the aggregator listens");
  } else if (is_running && address.port != 0) {
    exam.add(name, Health::fail, "a trib-server runs with this directory, and nobody listens on the port",
             "restart it: it runs with another listen.address than server.toml has now");
  } else if (is_used) {
    exam.add(name, Health::fail, "another program listens there",
             "end it, or choose another port in listen.address (`ss -ltnp` names the program)");
  } else if (error) {
    exam.add(name, Health::fail, error.message(), "choose an address of this machine, and a port from 1024 on");
  } else {
    exam.add(name, Health::ok, "free");
  }
}

void check_names(Examination& exam, const server::ServerConfig& config, const net::Certificate& certificate) {
  const auto names = certificate.host_names();
  for (const net::HostPort& address : config.advertise) {
    const std::string name = "advertised " + address.to_string();
    if (std::find(names.begin(), names.end(), address.host) == names.end()) {
      exam.add(name, Health::fail, fmt::format("the certificate names {}, and not this host", fmt::join(names, ", ")),
               "put the host into tls.host_names and restart trib-server");
      continue;
    }
    asio::io_context context;
    boost::system::error_code error;
    tcp::resolver resolver(context);
    resolver.resolve(address.host, std::to_string(address.port), error);
    exam.add(name, error ? Health::warn : Health::ok,
             error ? "this machine cannot resolve it: " + error.message() : "in the certificate, and it resolves",
             "see that the sites can resolve it: it is what tokens tell them to dial");
  }
}

}  // namespace

std::string_view to_string(Health health) {
  return health == Health::ok ? "ok" : health == Health::warn ? "warn" : "fail";
}

std::vector<Check> examine_site(const fs::path& root, const DoctorOptions& options) {
  Examination exam(options);
  const client::SiteDirectory directory{root};
  exam.check_directory(root);
  const auto config = client::read_site_config(directory.config());
  if (!config) {
    exam.fail("configuration", config.error(),
              config.error().code == Errc::not_found ? "trib-client join TOKEN --data FILE --dir DIR makes it"
                                                     : "put the line right that is named");
    return exam.take();
  }
  exam.add("configuration", Health::ok, directory.config().native());
  std::optional<client::Identity> identity;
  if (auto loaded = client::load_identity(directory)) {
    identity.emplace(std::move(*loaded));
    exam.check_certificate("certificate", identity->certificate,
                           "it renews itself while the client runs; after the grace period a new invite is needed");
    if (identity->site() != config->site)
      exam.add("certificate", Health::fail,
               fmt::format("it is for '{}', and client.toml says site = \"{}\"", identity->site(), config->site),
               "put the certificate's name into client.toml");
  } else {
    exam.fail("certificate", loaded.error(), "restore the site's directory from a copy, or join again with an invite");
  }
  check_ledger(exam, directory, *config, identity);
  check_data(exam, directory, *config);
  exam.check_models(config->models);
  exam.check_device(config->device);
  if (identity) check_aggregators(exam, *config, *identity);
  exam.add("client", Health::ok, is_taken(directory.lock()) ? "is running" : "is not running");
  return exam.take();
}

std::vector<Check> examine_server(const fs::path& root, const DoctorOptions& options) {
  Examination exam(options);
  const server::ServerDirectory directory{root};
  exam.check_directory(root);
  const auto config = server::read_server_config(directory.config());
  if (!config) {
    exam.fail("configuration", config.error(),
              config.error().code == Errc::not_found ? "trib init DIR --name NAME --host HOST makes it"
                                                     : "put the line right that is named");
    return exam.take();
  }
  exam.add("configuration", Health::ok, directory.config().native());
  struct stat key {};
  if (::stat(directory.ca_key().c_str(), &key) != 0) {
    exam.add("CA", Health::fail, fmt::format("there is no '{}'", directory.ca_key().native()),
             "restore ca/ from its copy: without the key no site is admitted and no certificate renewed");
  } else if ((key.st_mode & 077) != 0) {
    exam.add("CA", Health::fail, "its key is open to other users",
             fmt::format("chmod 600 '{}'; who has read it can admit anyone", directory.ca_key().native()));
  }
  if (const auto pem = read_file(directory.ca_certificate())) {
    if (const auto ca = net::Certificate::from_pem(*pem)) {
      exam.check_certificate("CA certificate", *ca, "a CA that ends needs a new federation: plan it");
    } else {
      exam.fail("CA certificate", ca.error(), "restore ca/ from its copy");
    }
  } else {
    exam.fail("CA certificate", pem.error(), "restore ca/ from its copy");
  }
  if (const auto own = server::load_server_credentials(directory)) {
    exam.check_certificate("certificate", own->certificate, "it renews itself while trib-server runs: start it");
    check_names(exam, *config, own->certificate);
  } else {
    exam.add("certificate", Health::warn, own.error().message, "the next start of trib-server issues it");
  }
  std::error_code error;
  if (fs::exists(directory.store(), error)) {
    const auto sound = server::SqliteStore::check(directory.store());
    if (sound) {
      exam.add("store", Health::ok, "its pages and indexes are sound");
    } else {
      exam.fail("store", sound.error(), "restore it from a backup (docs/deployment.md, \"Backup and restore\")");
    }
  } else {
    exam.add("store", Health::ok, "none yet: it begins with the first start of trib-server");
  }
  exam.check_models(config->models);
  if (!fs::is_directory(config->data, error))
    exam.add("data", Health::warn, fmt::format("there is no directory '{}'", config->data.native()),
             "make it and put public test sets there, or change tasks.data; without one nothing is evaluated");
  exam.check_device(config->device);
  const bool is_running = is_taken(directory.lock());
  check_port(exam, config->listen, is_running);
  exam.add("aggregator", Health::ok, is_running ? "is running" : "is not running");
  return exam.take();
}

}  // namespace trib::cli
