// A JSON object that carries its own hash and its site's signature: each line of a ledger, and each statement made from
// one. `,"hash":"…","signature":"…"}` ends it; the hash is the SHA-256 of all bytes before, and what is signed is the
// text "tributary:" and the hash in hexadecimal. So sha256sum, openssl and a text editor are enough to check one.
#pragma once

#include <string>
#include <string_view>

#include "common/hash.h"
#include "common/result.h"
#include "common/signature.h"

namespace trib::privacy {

// `body` is a JSON object without its closing brace and not empty: `{"a":1`. Fails where the signer does.
Result<std::string> seal(std::string body, const Signer& signer);

struct Sealed {
  std::string_view body;  // into the text that was opened
  Sha256 hash{};
  std::string signature;

  bool signed_by(const PublicKey& key) const { return key.verifies("tributary:" + to_hex(hash), signature); }
};

// Errc::corrupt says what is wrong: cut short, or a hash that does not match the bytes. Does not check the signature.
Result<Sealed> open_sealed(std::string_view text);

}  // namespace trib::privacy
