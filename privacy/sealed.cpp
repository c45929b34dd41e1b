#include "privacy/sealed.h"

namespace trib::privacy {
namespace {

constexpr std::string_view kHashField = ",\"hash\":\"";
constexpr std::string_view kSignatureField = "\",\"signature\":\"";
constexpr std::string_view kEnd = "\"}";

}  // namespace

Result<std::string> seal(std::string body, const Signer& signer) {
  const std::string hash = to_hex(sha256(body));
  TRIB_ASSIGN(const std::string signature, signer.sign("tributary:" + hash));
  body += kHashField;
  body += hash;
  body += kSignatureField;
  body += signature;
  body += kEnd;
  return body;
}

Result<Sealed> open_sealed(std::string_view text) {
  const Error cut{Errc::corrupt, "it does not end with its hash and signature: it was cut or damaged"};
  const std::size_t at = text.rfind(kHashField);
  if (at == std::string_view::npos || !text.ends_with(kEnd)) return cut;
  std::string_view rest = text.substr(at + kHashField.size());
  constexpr std::size_t digits = 2 * sizeof(Sha256);
  if (rest.size() < digits + kSignatureField.size() + kEnd.size() ||
      rest.substr(digits, kSignatureField.size()) != kSignatureField) {
    return cut;
  }
  const std::string_view hex = rest.substr(0, digits);
  const auto hash = sha256_from_hex(hex);
  Sealed sealed;
  sealed.body = text.substr(0, at);
  if (!hash || to_hex(*hash) != hex || *hash != sha256(sealed.body)) {
    return Error{Errc::corrupt, "its hash does not match its bytes: it was edited or damaged"};
  }
  sealed.hash = *hash;
  rest.remove_prefix(digits + kSignatureField.size());
  sealed.signature = std::string(rest.substr(0, rest.size() - kEnd.size()));
  return sealed;
}

}  // namespace trib::privacy
