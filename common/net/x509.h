// Keys, certificate requests and certificates (OpenSSL 3, P-256). Private keys are made where they are used.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/hash.h"
#include "common/result.h"

struct evp_pkey_st;
struct x509_st;

namespace trib::net {

class PrivateKey {
 public:
  static PrivateKey generate();  // P-256
  static Result<PrivateKey> from_pem(std::string_view pem);
  std::string to_pem() const;  // for a file of mode 0600; never logged
  Sha256 public_key_sha256() const;
  evp_pkey_st* native() const { return key_.get(); }

 private:
  std::shared_ptr<evp_pkey_st> key_;
};

class Certificate {
 public:
  static Result<Certificate> from_pem(std::string_view pem);
  std::string to_pem() const;
  std::string common_name() const;          // the site's name
  std::string organizational_unit() const;  // its role: "site", "operator", "aggregator", "ca"
  std::string serial() const;               // hex
  Sha256 sha256() const;                    // of the DER form
  Sha256 public_key_sha256() const;
  WallTime not_before() const;
  WallTime not_after() const;
  bool issued_by(const Certificate& ca) const;  // signature and names; not time
  std::vector<std::string> host_names() const;  // SAN: DNS names and IP addresses
  x509_st* native() const { return certificate_.get(); }
  static Certificate from_native(x509_st* owned);  // takes over one reference

 private:
  std::shared_ptr<x509_st> certificate_;
};

// A PKCS #10 request for `key`, with the wanted name; the issuer decides what the certificate says.
std::string make_certificate_request(const PrivateKey& key, std::string_view common_name);
// SHA-256 of the public key in a request, after checking the request's own signature (proof of possession).
Result<Sha256> check_certificate_request(std::string_view request_pem);

struct CertificateSubject {
  std::string common_name;
  std::string role;                     // "site", "operator", "aggregator"
  std::vector<std::string> host_names;  // SAN: DNS names and IP addresses (aggregators)
};

// Signs with the CA's key.
class CertificateIssuer {
 public:
  // A new self-signed CA: ten years, path length 0.
  static CertificateIssuer create(std::string_view federation, const Clock& clock);
  static Result<CertificateIssuer> from_pem(std::string_view ca_certificate_pem, std::string_view ca_key_pem);
  Result<Certificate> issue(std::string_view request_pem, const CertificateSubject& subject, WallTime not_before,
                            WallTime not_after) const;
  const Certificate& ca_certificate() const { return ca_; }
  std::string key_pem() const { return key_.to_pem(); }

 private:
  CertificateIssuer(Certificate ca, PrivateKey key) : ca_(std::move(ca)), key_(std::move(key)) {}
  Certificate ca_;
  PrivateKey key_;
};

}  // namespace trib::net
