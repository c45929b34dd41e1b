#include "common/signature.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "tests/common/temporary_directory.h"

namespace trib {
namespace {

TEST(Signature, IsOfOneKeyAndOneMessage) {
  const auto signer = throwaway_signer();
  const std::string signature = signer->sign("message").value();
  EXPECT_TRUE(signer->public_key().verifies("message", signature));
  EXPECT_FALSE(signer->public_key().verifies("massage", signature));
  EXPECT_FALSE(throwaway_signer()->public_key().verifies("message", signature));
}

TEST(Signature, HasOneTextOnly) {
  const auto signer = throwaway_signer();
  const std::string signature = signer->sign("message").value();
  for (std::size_t i = 0; i < signature.size(); ++i) {
    std::string edited = signature;
    edited[i] = edited[i] == 'A' ? 'B' : 'A';
    EXPECT_FALSE(signer->public_key().verifies("message", edited)) << i;
  }
  EXPECT_FALSE(signer->public_key().verifies("message", ""));
  EXPECT_FALSE(signer->public_key().verifies("message", signature + "AAAA"));
}

TEST(Signature, AKeySurvivesItsText) {
  const auto signer = throwaway_signer();
  const PublicKey key = PublicKey::from_text(signer->public_key().text()).value();
  EXPECT_TRUE(key.verifies("message", signer->sign("message").value()));
  EXPECT_EQ(key.sha256(), signer->public_key().sha256());
  EXPECT_EQ(PublicKey::from_text("AAAA").error().code, Errc::invalid_argument);
  EXPECT_EQ(PublicKey::from_text(key.text() + "A").error().code, Errc::invalid_argument);
}

TEST(Signature, TakesNoKeyOfAnotherKind) {
  EXPECT_EQ(signer_from_pem("not a key").error().code, Errc::invalid_argument);
  // RFC 8410, section 10.3: an Ed25519 key.
  EXPECT_EQ(
      signer_from_pem("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n"
                      "-----END PRIVATE KEY-----\n")
          .error()
          .code,
      Errc::invalid_argument);
}

// The outside oracle: OpenSSL's own command agrees on what the key and the signature are.
TEST(Signature, IsVerifiedByTheOpensslCommand) {
  if (std::system("openssl version > /dev/null 2>&1") != 0) GTEST_SKIP() << "there is no openssl command here";
  const test::TemporaryDirectory directory;
  const auto signer = throwaway_signer();
  const auto signature = from_base64url(signer->sign("message").value()).value();
  std::ofstream(directory / "key.pem") << signer->public_key().to_pem();
  std::ofstream(directory / "signature", std::ios::binary)
      .write(reinterpret_cast<const char*>(signature.data()), static_cast<std::streamsize>(signature.size()));
  const auto verify = [&](const std::string& message) {
    std::ofstream(directory / "message") << message;
    const std::string in = directory.path().string();
    return std::system(("openssl dgst -sha256 -verify " + in + "/key.pem -signature " + in + "/signature " + in +
                        "/message > /dev/null 2>&1")
                           .c_str());
  };
  EXPECT_EQ(verify("message"), 0);
  EXPECT_NE(verify("massage"), 0);
}

}  // namespace
}  // namespace trib
