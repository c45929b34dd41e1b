#include "common/signature.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <array>
#include <cstring>
#include <span>

namespace trib {
namespace {

struct FreeBio {
  void operator()(BIO* bio) const { BIO_free_all(bio); }
};
struct FreeContext {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};
using BioPointer = std::unique_ptr<BIO, FreeBio>;
using ContextPointer = std::unique_ptr<EVP_MD_CTX, FreeContext>;
using KeyPointer = std::shared_ptr<EVP_PKEY>;

void require(bool succeeded, const char* function) {
  if (!succeeded) throw FatalError({Errc::internal, std::string("OpenSSL's ") + function + " failed"});
}

bool is_p256(EVP_PKEY* key) {
  std::array<char, 64> group{};
  std::size_t length = 0;
  return EVP_PKEY_is_a(key, "EC") == 1 && EVP_PKEY_get_group_name(key, group.data(), group.size(), &length) == 1 &&
         std::strcmp(group.data(), SN_X9_62_prime256v1) == 0;
}

std::span<const std::uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

std::string public_text(EVP_PKEY* key) {
  unsigned char* der = nullptr;
  const int size = i2d_PUBKEY(key, &der);
  require(size > 0, "i2d_PUBKEY");
  std::string text = to_base64url(std::span<const std::uint8_t>(der, static_cast<std::size_t>(size)));
  OPENSSL_free(der);
  return text;
}

class KeySigner final : public Signer {
 public:
  explicit KeySigner(KeyPointer key)
      : key_(std::move(key)), public_key_(PublicKey::from_text(public_text(key_.get())).value()) {}

  const PublicKey& public_key() const override { return public_key_; }

  Result<std::string> sign(std::string_view message) const override {
    const ContextPointer context(EVP_MD_CTX_new());
    require(context != nullptr, "EVP_MD_CTX_new");
    const auto bytes = bytes_of(message);
    std::size_t size = 0;
    require(EVP_DigestSignInit(context.get(), nullptr, EVP_sha256(), nullptr, key_.get()) == 1, "EVP_DigestSignInit");
    require(EVP_DigestSign(context.get(), nullptr, &size, bytes.data(), bytes.size()) == 1, "EVP_DigestSign");
    std::vector<std::uint8_t> signature(size);
    require(EVP_DigestSign(context.get(), signature.data(), &size, bytes.data(), bytes.size()) == 1, "EVP_DigestSign");
    return to_base64url(std::span<const std::uint8_t>(signature).first(size));
  }

 private:
  KeyPointer key_;
  PublicKey public_key_;
};

}  // namespace

Result<PublicKey> PublicKey::from_text(std::string_view base64url) {
  const Error refused{Errc::invalid_argument, std::string(base64url) + ": this is not a public key on P-256"};
  const auto der = from_base64url(base64url);
  if (!der) return refused;
  const unsigned char* at = der->data();
  const KeyPointer key(d2i_PUBKEY(nullptr, &at, static_cast<long>(der->size())), EVP_PKEY_free);
  if (key == nullptr || !is_p256(key.get()) || public_text(key.get()) != base64url) {
    ERR_clear_error();
    return refused;
  }
  PublicKey result;
  result.key_ = key;
  result.text_ = std::string(base64url);
  return result;
}

Sha256 PublicKey::sha256() const {
  const auto der = from_base64url(text_).value();
  return trib::sha256(std::as_bytes(std::span(der)));
}

std::string PublicKey::to_pem() const {
  const BioPointer bio(BIO_new(BIO_s_mem()));
  require(bio != nullptr && PEM_write_bio_PUBKEY(bio.get(), key_.get()) == 1, "PEM_write_bio_PUBKEY");
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<std::size_t>(size)};
}

bool PublicKey::verifies(std::string_view message, std::string_view signature_base64url) const {
  const auto signature = from_base64url(signature_base64url);
  // One text for one signature: unused bits of the last character would otherwise be free.
  if (!signature || to_base64url(*signature) != signature_base64url) return false;
  const ContextPointer context(EVP_MD_CTX_new());
  require(context != nullptr, "EVP_MD_CTX_new");
  require(EVP_DigestVerifyInit(context.get(), nullptr, EVP_sha256(), nullptr, key_.get()) == 1, "EVP_DigestVerifyInit");
  const auto bytes = bytes_of(message);
  const bool verified =
      EVP_DigestVerify(context.get(), signature->data(), signature->size(), bytes.data(), bytes.size()) == 1;
  ERR_clear_error();
  return verified;
}

Result<std::shared_ptr<const Signer>> signer_from_pem(std::string_view private_key_pem) {
  const BioPointer bio(BIO_new_mem_buf(private_key_pem.data(), static_cast<int>(private_key_pem.size())));
  require(bio != nullptr, "BIO_new_mem_buf");
  // A callback that gives no passphrase, so that an encrypted key is an error instead of a prompt.
  const auto no_passphrase = [](char*, int, int, void*) { return 0; };
  const KeyPointer key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_passphrase, nullptr), EVP_PKEY_free);
  if (key == nullptr || !is_p256(key.get())) {
    ERR_clear_error();
    return Error{Errc::invalid_argument, "the private key is not an unencrypted PEM key on P-256"};
  }
  return std::shared_ptr<const Signer>(std::make_shared<KeySigner>(key));
}

std::shared_ptr<const Signer> throwaway_signer() {
  const KeyPointer key(EVP_EC_gen("P-256"), EVP_PKEY_free);
  require(key != nullptr, "EVP_EC_gen");
  return std::make_shared<KeySigner>(key);
}

}  // namespace trib
