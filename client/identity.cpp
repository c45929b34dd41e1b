#include "client/identity.h"

#include <spdlog/fmt/fmt.h>
#include <sys/stat.h>

#include <cerrno>

#include "common/files.h"

namespace trib::client {
namespace {

constexpr unsigned private_mode = 0600;

// The key of a site is as good as the site: nobody else on the machine may read it.
Status check_key_mode(const std::filesystem::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return error_from_errno(errno, "cannot read '" + path.native() + "'");
  if ((status.st_mode & 077) != 0) {
    return Error{
        Errc::permission_denied,
        fmt::format("the private key '{}' has mode {:04o}, so others may read it: chmod 600 it, and if that is no "
                    "accident have the site revoked and join anew",
                    path.native(), status.st_mode & 07777)};
  }
  return {};
}

Result<net::Certificate> read_certificate(const std::filesystem::path& path) {
  auto pem = read_file(path);
  if (!pem && pem.error().code == Errc::not_found) {
    return Error{Errc::not_found,
                 fmt::format("there is no '{}': this directory has not joined a federation; run `trib-client "
                             "join TOKEN --data FILE --dir {}`",
                             path.native(), path.parent_path().native())};
  }
  if (!pem) return pem.error();
  auto certificate = net::Certificate::from_pem(*pem);
  if (!certificate) return certificate.error().with_context("'" + path.native() + "'");
  return certificate;
}

}  // namespace

Result<Identity> load_identity(const SiteDirectory& directory) {
  TRIB_ASSIGN(net::Certificate certificate, read_certificate(directory.certificate()));
  TRIB_ASSIGN(net::Certificate ca, read_certificate(directory.ca_certificate()));
  TRIB_TRY(check_key_mode(directory.key()));
  TRIB_ASSIGN(const std::string pem, read_file(directory.key()));
  auto key = net::PrivateKey::from_pem(pem);
  if (!key) return key.error().with_context("'" + directory.key().native() + "'");
  if (key->public_key_sha256() != certificate.public_key_sha256()) {
    return Error{Errc::corrupt, fmt::format("'{}' is not the key of '{}'", directory.key().native(),
                                            directory.certificate().native())};
  }
  if (!certificate.issued_by(ca)) {
    return Error{Errc::corrupt, fmt::format("'{}' was not issued by '{}'", directory.certificate().native(),
                                            directory.ca_certificate().native())};
  }
  return Identity{std::move(*key), std::move(certificate), std::move(ca)};
}

Result<net::PrivateKey> load_or_make_key(const SiteDirectory& directory) {
  auto pem = read_file(directory.key());
  if (pem) {
    TRIB_TRY(check_key_mode(directory.key()));
    auto key = net::PrivateKey::from_pem(*pem);
    if (!key) return key.error().with_context("'" + directory.key().native() + "'");
    return key;
  }
  if (pem.error().code != Errc::not_found) return pem.error();
  net::PrivateKey key = net::PrivateKey::generate();
  TRIB_TRY(write_file_durably(directory.key(), key.to_pem(), private_mode));
  return key;
}

bool is_renewal_due(const net::Certificate& certificate, WallTime now) {
  const auto life = certificate.not_after() - certificate.not_before();
  return now >= certificate.not_before() + life * 2 / 3;
}

bool is_lapsed(const net::Certificate& certificate, WallTime now) {
  return now >= certificate.not_after();
}

Status accept_certificate(Identity& identity, const SiteDirectory& directory, const std::string& pem,
                          const Clock& clock) {
  const auto refuse = [](std::string_view problem) {
    return Error{Errc::protocol_error, fmt::format("the aggregator issued a certificate that {}", problem)};
  };
  auto certificate = net::Certificate::from_pem(pem);
  if (!certificate) return refuse("cannot be read: " + certificate.error().message);
  if (certificate->public_key_sha256() != identity.key.public_key_sha256()) return refuse("is for another key");
  if (!certificate->issued_by(identity.ca)) return refuse("does not come from the federation's CA");
  if (certificate->common_name() != identity.site()) {
    return refuse(fmt::format("names site '{}', not '{}'", certificate->common_name(), identity.site()));
  }
  if (is_lapsed(*certificate, clock.wall_now())) {
    return refuse(fmt::format("ended at {}; are both clocks right?", to_iso8601(certificate->not_after())));
  }
  TRIB_TRY(write_file_durably(directory.certificate(), pem));
  identity.certificate = std::move(*certificate);
  return {};
}

}  // namespace trib::client
