// Signatures of what a site vouches for: ECDSA over P-256 and SHA-256 (FIPS 186-5), the keys and the algorithm of the
// federation's certificates. Keys and signatures travel as base64url text without padding.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "common/hash.h"
#include "common/result.h"

struct evp_pkey_st;

namespace trib {

class PublicKey {
 public:
  // Of the DER form (SubjectPublicKeyInfo), as base64url. Errc::invalid_argument if it is not a P-256 key, or not
  // written as this program writes it.
  static Result<PublicKey> from_text(std::string_view base64url);
  const std::string& text() const { return text_; }
  Sha256 sha256() const;       // of the DER form: the same as a certificate's public_key_sha256()
  std::string to_pem() const;  // as `openssl dgst -verify` reads it
  // False for anything that is not this key's signature of exactly these bytes.
  bool verifies(std::string_view message, std::string_view signature_base64url) const;

 private:
  std::shared_ptr<evp_pkey_st> key_;
  std::string text_;
};

// Whoever can sign. An interface, so that a key may live in a token or another process.
class Signer {
 public:
  virtual ~Signer() = default;
  virtual const PublicKey& public_key() const = 0;
  virtual Result<std::string> sign(std::string_view message) const = 0;  // base64url
};

// A private key in memory. Errc::invalid_argument if the text is not an unencrypted PEM key on P-256.
Result<std::shared_ptr<const Signer>> signer_from_pem(std::string_view private_key_pem);
// A new key that nobody keeps: for simulations and tests, where a signature proves nothing.
std::shared_ptr<const Signer> throwaway_signer();

}  // namespace trib
