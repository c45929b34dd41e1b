#include "server/init.h"

#include "common/files.h"
#include "common/net/x509.h"
#include "server/certificate_authority.h"
#include "server/config.h"

namespace trib::server {
namespace {

Status make_ca(const ServerDirectory& directory, const std::string& federation, const Clock& clock) {
  const bool has_key = std::filesystem::exists(directory.ca_key());
  const bool has_certificate = std::filesystem::exists(directory.ca_certificate());
  if (has_key && has_certificate) return {};  // an interrupted init
  if (has_certificate)
    return Error{Errc::already_exists, directory.ca_certificate().string() +
                                           " exists without its key: this is a federation's CA, restore its key"};
  const auto issuer = net::CertificateIssuer::create(federation, clock);
  TRIB_TRY(make_directories(directory.ca_key().parent_path(), 0700));
  // The key first: without its certificate it signs nothing that anybody trusts.
  TRIB_TRY(write_file_durably(directory.ca_key(), issuer.key_pem(), 0600));
  return write_file_durably(directory.ca_certificate(), issuer.ca_certificate().to_pem());
}

}  // namespace

Status init_federation(const InitOptions& options, const Clock& clock) {
  const ServerDirectory directory{std::filesystem::absolute(options.directory)};
  if (std::filesystem::exists(directory.config()))
    return Error{
        Errc::already_exists,
        directory.root.string() + " is a federation already: add sites with `trib invite`, or name another directory"};
  if (options.federation.empty() || options.federation.size() > 64)
    return Error{Errc::invalid_argument, "a federation's name must have 1 to 64 bytes, '" + options.federation +
                                             "' has " + std::to_string(options.federation.size())};
  if (options.host_names.empty())
    return Error{Errc::invalid_argument, "name at least one host under which the sites reach this aggregator"};
  ServerConfig config;
  config.federation = options.federation;
  TRIB_ASSIGN(config.listen, net::parse_host_port(options.listen));
  config.host_names = options.host_names;
  for (const std::string& host : options.host_names) config.advertise.push_back({host, config.listen.port});
  if (!options.advertise.empty()) config.advertise.clear();
  for (const std::string& text : options.advertise) {
    TRIB_ASSIGN(net::HostPort address, net::parse_host_port(text));
    config.advertise.push_back(std::move(address));
  }
  if (!options.http.empty()) {
    const auto address = net::parse_host_port(options.http);
    if (!address) return address.error().with_context("the address of the dashboard");
    config.http.listen = *address;
    // What never leaves this machine needs no certificate that browsers do not know.
    config.http.tls = !is_loopback(*address);
  }
  config.device = options.device;
  config.models = options.model_directories;
  if (config.models.empty()) config.models.emplace_back("models");
  config.data = options.data_directory.empty() ? std::filesystem::path("data") : options.data_directory;

  TRIB_TRY(make_directories(directory.root, 0700));
  for (const auto& folder : {directory.store().parent_path(), directory.states(), directory.staging()})
    TRIB_TRY(make_directories(folder, 0700));
  for (const char* folder : {"models", "data"}) TRIB_TRY(make_directories(directory.root / folder));
  TRIB_TRY(make_ca(directory, options.federation, clock));
  TRIB_TRY(renew_server_certificate(directory, config, clock));
  return write_file_durably(directory.config(), render_server_config(config));
}

}  // namespace trib::server
