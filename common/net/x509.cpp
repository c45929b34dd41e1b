#include "common/net/x509.h"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <array>
#include <ctime>

#include "common/net/address.h"

namespace trib::net {
namespace {

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* pointer) const {
    Free(pointer);
  }
};
using BioPointer = std::unique_ptr<BIO, Freer<BIO_free_all>>;
using RequestPointer = std::unique_ptr<X509_REQ, Freer<X509_REQ_free>>;
using X509Pointer = std::unique_ptr<X509, Freer<X509_free>>;
using KeyPointer = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;
using ExtensionPointer = std::unique_ptr<X509_EXTENSION, Freer<X509_EXTENSION_free>>;
using NamesPointer = std::unique_ptr<GENERAL_NAMES, Freer<GENERAL_NAMES_free>>;
using NumberPointer = std::unique_ptr<BIGNUM, Freer<BN_free>>;

constexpr std::size_t maximum_common_name_bytes = 64;  // ub-common-name, RFC 5280 appendix A

std::string take_openssl_error() {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  if (code == 0) return "no reason given";
  const char* reason = ERR_reason_error_string(code);
  return reason != nullptr ? reason : "error " + std::to_string(code);
}

// For calls that fail only when memory or the random source does.
void require(bool succeeded, const char* what) {
  if (!succeeded) throw FatalError({Errc::internal, std::string(what) + " failed: " + take_openssl_error()});
}

BioPointer reader(std::string_view text) {
  BioPointer bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  require(bio != nullptr, "BIO_new_mem_buf");
  return bio;
}

BioPointer writer() {
  BioPointer bio(BIO_new(BIO_s_mem()));
  require(bio != nullptr, "BIO_new");
  return bio;
}

std::string text_of(const BioPointer& bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<std::size_t>(size)};
}

std::string name_entry(const X509_NAME* name, int nid) {
  const int index = X509_NAME_get_index_by_NID(name, nid, -1);
  if (index < 0) return {};
  const ASN1_STRING* value = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, index));
  return {reinterpret_cast<const char*>(ASN1_STRING_get0_data(value)),
          static_cast<std::size_t>(ASN1_STRING_length(value))};
}

void add_name_entry(X509_NAME* name, const char* field, std::string_view value) {
  require(X509_NAME_add_entry_by_txt(name, field, MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(value.data()),
                                     static_cast<int>(value.size()), -1, 0) == 1,
          "X509_NAME_add_entry_by_txt");
}

WallTime to_wall_time(const ASN1_TIME* time) {
  std::tm parts{};
  require(ASN1_TIME_to_tm(time, &parts) == 1, "ASN1_TIME_to_tm");
  return WallTime(std::chrono::seconds(timegm(&parts)));
}

void set_validity(X509* certificate, WallTime not_before, WallTime not_after) {
  const auto seconds = [](WallTime time) {
    return static_cast<std::time_t>(std::chrono::floor<std::chrono::seconds>(time).time_since_epoch().count());
  };
  require(ASN1_TIME_set(X509_getm_notBefore(certificate), seconds(not_before)) != nullptr, "ASN1_TIME_set");
  require(ASN1_TIME_set(X509_getm_notAfter(certificate), seconds(not_after)) != nullptr, "ASN1_TIME_set");
}

void set_random_serial(X509* certificate) {
  NumberPointer number(BN_new());
  // 127 bits: positive, and at most the 20 octets of RFC 5280 section 4.1.2.2.
  require(number != nullptr && BN_rand(number.get(), 127, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1, "BN_rand");
  require(BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) != nullptr, "BN_to_ASN1_INTEGER");
}

void add_extension(X509* certificate, X509* issuer, int nid, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  ExtensionPointer extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value));
  require(extension != nullptr, "X509V3_EXT_conf_nid");
  require(X509_add_ext(certificate, extension.get(), -1) == 1, "X509_add_ext");
}

Status add_host_names(X509* certificate, const std::vector<std::string>& host_names) {
  NamesPointer names(GENERAL_NAMES_new());
  require(names != nullptr, "GENERAL_NAMES_new");
  for (const std::string& host : host_names) {
    GENERAL_NAME* name = host.empty() ? nullptr
                                      : a2i_GENERAL_NAME(nullptr, nullptr, nullptr,
                                                         is_ip_address(host) ? GEN_IPADD : GEN_DNS, host.c_str(), 0);
    if (name == nullptr) return Error{Errc::invalid_argument, "'" + host + "' is neither a DNS name nor an IP address"};
    require(sk_GENERAL_NAME_push(names.get(), name) > 0, "sk_GENERAL_NAME_push");
  }
  require(X509_add1_ext_i2d(certificate, NID_subject_alt_name, names.get(), 0, X509V3_ADD_DEFAULT) == 1,
          "X509_add1_ext_i2d");
  return {};
}

Sha256 key_sha256(EVP_PKEY* key) {
  unsigned char* der = nullptr;
  const int size = i2d_PUBKEY(key, &der);
  require(size > 0, "i2d_PUBKEY");
  const Sha256 digest = sha256(std::as_bytes(std::span(der, static_cast<std::size_t>(size))));
  OPENSSL_free(der);
  return digest;
}

Result<RequestPointer> parse_request(std::string_view pem) {
  const BioPointer bio = reader(pem);
  RequestPointer request(PEM_read_bio_X509_REQ(bio.get(), nullptr, nullptr, nullptr));
  if (!request)
    return Error{Errc::invalid_argument, "the certificate request is not PEM PKCS #10: " + take_openssl_error()};
  EVP_PKEY* key = X509_REQ_get0_pubkey(request.get());
  if (key == nullptr || X509_REQ_verify(request.get(), key) != 1) {
    ERR_clear_error();
    return Error{Errc::invalid_argument, "the certificate request is not signed by the key in it"};
  }
  return request;
}

X509Pointer new_certificate(const CertificateSubject& subject, EVP_PKEY* key, WallTime not_before, WallTime not_after) {
  X509Pointer certificate(X509_new());
  require(certificate != nullptr, "X509_new");
  require(X509_set_version(certificate.get(), X509_VERSION_3) == 1, "X509_set_version");
  set_random_serial(certificate.get());
  set_validity(certificate.get(), not_before, not_after);
  X509_NAME* name = X509_get_subject_name(certificate.get());
  add_name_entry(name, "OU", subject.role);
  add_name_entry(name, "CN", subject.common_name);
  require(X509_set_pubkey(certificate.get(), key) == 1, "X509_set_pubkey");
  return certificate;
}

Status check_common_name(std::string_view name) {
  if (name.empty() || name.size() > maximum_common_name_bytes)
    return Error{Errc::invalid_argument, "a certificate's name must have 1 to 64 bytes, '" + std::string(name) +
                                             "' has " + std::to_string(name.size())};
  return {};
}

}  // namespace

PrivateKey PrivateKey::generate() {
  PrivateKey key;
  key.key_ = std::shared_ptr<EVP_PKEY>(EVP_EC_gen("P-256"), EVP_PKEY_free);
  require(key.key_ != nullptr, "EVP_EC_gen");
  return key;
}

Result<PrivateKey> PrivateKey::from_pem(std::string_view pem) {
  const BioPointer bio = reader(pem);
  // A callback that gives no passphrase, so that an encrypted key is an error instead of a prompt.
  const auto no_passphrase = [](char*, int, int, void*) { return 0; };
  KeyPointer key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_passphrase, nullptr));
  if (!key) return Error{Errc::invalid_argument, "the private key is not unencrypted PEM: " + take_openssl_error()};
  PrivateKey result;
  result.key_ = std::shared_ptr<EVP_PKEY>(key.release(), EVP_PKEY_free);
  return result;
}

std::string PrivateKey::to_pem() const {
  const BioPointer bio = writer();
  require(PEM_write_bio_PKCS8PrivateKey(bio.get(), key_.get(), nullptr, nullptr, 0, nullptr, nullptr) == 1,
          "PEM_write_bio_PKCS8PrivateKey");
  return text_of(bio);
}

Sha256 PrivateKey::public_key_sha256() const {
  return key_sha256(key_.get());
}

Result<Certificate> Certificate::from_pem(std::string_view pem) {
  const BioPointer bio = reader(pem);
  X509Pointer parsed(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  if (!parsed) return Error{Errc::invalid_argument, "the certificate is not PEM X.509: " + take_openssl_error()};
  if (X509_get0_pubkey(parsed.get()) == nullptr)
    return Error{Errc::invalid_argument, "the certificate's public key cannot be read: " + take_openssl_error()};
  return from_native(parsed.release());
}

Certificate Certificate::from_native(X509* owned) {
  Certificate certificate;
  certificate.certificate_ = std::shared_ptr<X509>(owned, X509_free);
  return certificate;
}

std::string Certificate::to_pem() const {
  const BioPointer bio = writer();
  require(PEM_write_bio_X509(bio.get(), certificate_.get()) == 1, "PEM_write_bio_X509");
  return text_of(bio);
}

std::string Certificate::common_name() const {
  return name_entry(X509_get_subject_name(certificate_.get()), NID_commonName);
}

std::string Certificate::organizational_unit() const {
  return name_entry(X509_get_subject_name(certificate_.get()), NID_organizationalUnitName);
}

std::string Certificate::serial() const {
  NumberPointer number(ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate_.get()), nullptr));
  require(number != nullptr, "ASN1_INTEGER_to_BN");
  char* digits = BN_bn2hex(number.get());
  require(digits != nullptr, "BN_bn2hex");
  std::string text = digits;
  OPENSSL_free(digits);
  for (char& digit : text)
    if (digit >= 'A' && digit <= 'F') digit = static_cast<char>(digit - 'A' + 'a');
  return text;
}

Sha256 Certificate::sha256() const {
  Sha256 digest{};
  unsigned int size = 0;
  require(X509_digest(certificate_.get(), EVP_sha256(), digest.data(), &size) == 1, "X509_digest");
  return digest;
}

Sha256 Certificate::public_key_sha256() const {
  return key_sha256(X509_get0_pubkey(certificate_.get()));
}

WallTime Certificate::not_before() const {
  return to_wall_time(X509_get0_notBefore(certificate_.get()));
}

WallTime Certificate::not_after() const {
  return to_wall_time(X509_get0_notAfter(certificate_.get()));
}

bool Certificate::issued_by(const Certificate& ca) const {
  const bool issued = X509_check_issued(ca.native(), certificate_.get()) == X509_V_OK &&
                      X509_verify(certificate_.get(), X509_get0_pubkey(ca.native())) == 1;
  ERR_clear_error();
  return issued;
}

std::vector<std::string> Certificate::host_names() const {
  std::vector<std::string> hosts;
  NamesPointer names(
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate_.get(), NID_subject_alt_name, nullptr, nullptr)));
  if (!names) return hosts;
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type == GEN_DNS) {
      hosts.emplace_back(reinterpret_cast<const char*>(ASN1_STRING_get0_data(name->d.dNSName)),
                         static_cast<std::size_t>(ASN1_STRING_length(name->d.dNSName)));
    } else if (name->type == GEN_IPADD) {
      const int family = ASN1_STRING_length(name->d.iPAddress) == 4 ? AF_INET : AF_INET6;
      std::array<char, INET6_ADDRSTRLEN> text{};
      if (inet_ntop(family, ASN1_STRING_get0_data(name->d.iPAddress), text.data(), text.size()) != nullptr)
        hosts.emplace_back(text.data());
    }
  }
  return hosts;
}

std::string make_certificate_request(const PrivateKey& key, std::string_view common_name) {
  check_common_name(common_name).value();
  RequestPointer request(X509_REQ_new());
  require(request != nullptr, "X509_REQ_new");
  add_name_entry(X509_REQ_get_subject_name(request.get()), "CN", common_name);
  require(X509_REQ_set_pubkey(request.get(), key.native()) == 1, "X509_REQ_set_pubkey");
  require(X509_REQ_sign(request.get(), key.native(), EVP_sha256()) > 0, "X509_REQ_sign");
  const BioPointer bio = writer();
  require(PEM_write_bio_X509_REQ(bio.get(), request.get()) == 1, "PEM_write_bio_X509_REQ");
  return text_of(bio);
}

Result<Sha256> check_certificate_request(std::string_view request_pem) {
  TRIB_ASSIGN(const RequestPointer request, parse_request(request_pem));
  return key_sha256(X509_REQ_get0_pubkey(request.get()));
}

CertificateIssuer CertificateIssuer::create(std::string_view federation, const Clock& clock) {
  PrivateKey key = PrivateKey::generate();
  const WallTime now = clock.wall_now();
  // A day of slack for clocks that are behind.
  X509Pointer certificate = new_certificate({.common_name = std::string(federation), .role = "ca", .host_names = {}},
                                            key.native(), now - std::chrono::days(1), now + std::chrono::years(10));
  require(X509_set_issuer_name(certificate.get(), X509_get_subject_name(certificate.get())) == 1,
          "X509_set_issuer_name");
  add_extension(certificate.get(), certificate.get(), NID_basic_constraints, "critical,CA:TRUE,pathlen:0");
  add_extension(certificate.get(), certificate.get(), NID_key_usage, "critical,keyCertSign,cRLSign");
  add_extension(certificate.get(), certificate.get(), NID_subject_key_identifier, "hash");
  require(X509_sign(certificate.get(), key.native(), EVP_sha256()) > 0, "X509_sign");
  return {Certificate::from_native(certificate.release()), std::move(key)};
}

Result<CertificateIssuer> CertificateIssuer::from_pem(std::string_view ca_certificate_pem,
                                                      std::string_view ca_key_pem) {
  TRIB_ASSIGN(Certificate ca, Certificate::from_pem(ca_certificate_pem));
  TRIB_ASSIGN(PrivateKey key, PrivateKey::from_pem(ca_key_pem));
  if (ca.public_key_sha256() != key.public_key_sha256())
    return Error{Errc::invalid_argument, "the CA key does not belong to the CA certificate of '" + ca.common_name() +
                                             "': restore both from the same backup"};
  return CertificateIssuer(std::move(ca), std::move(key));
}

Result<Certificate> CertificateIssuer::issue(std::string_view request_pem, const CertificateSubject& subject,
                                             WallTime not_before, WallTime not_after) const {
  TRIB_TRY(check_common_name(subject.common_name));
  TRIB_ASSIGN(const RequestPointer request, parse_request(request_pem));
  X509Pointer certificate =
      new_certificate(subject, X509_REQ_get0_pubkey(request.get()), not_before, std::min(not_after, ca_.not_after()));
  require(X509_set_issuer_name(certificate.get(), X509_get_subject_name(ca_.native())) == 1, "X509_set_issuer_name");
  const bool is_aggregator = subject.role == "aggregator";
  add_extension(certificate.get(), ca_.native(), NID_basic_constraints, "critical,CA:FALSE");
  add_extension(certificate.get(), ca_.native(), NID_key_usage, "critical,digitalSignature");
  add_extension(certificate.get(), ca_.native(), NID_ext_key_usage, is_aggregator ? "serverAuth" : "clientAuth");
  add_extension(certificate.get(), ca_.native(), NID_subject_key_identifier, "hash");
  add_extension(certificate.get(), ca_.native(), NID_authority_key_identifier, "keyid:always");
  if (!subject.host_names.empty()) TRIB_TRY(add_host_names(certificate.get(), subject.host_names));
  require(X509_sign(certificate.get(), key_.native(), EVP_sha256()) > 0, "X509_sign");
  return Certificate::from_native(certificate.release());
}

}  // namespace trib::net
