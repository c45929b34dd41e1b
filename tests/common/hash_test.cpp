#include "common/hash.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/common/temporary_directory.h"

namespace trib {
namespace {

using testing::HasSubstr;

std::vector<std::uint8_t> bytes_of(std::string_view text) {
  return {text.begin(), text.end()};
}

// FIPS 180-4's examples.
constexpr std::string_view empty_digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
constexpr std::string_view abc_digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr std::string_view million_a_digest = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

TEST(Sha256, MatchesTheStandardsExamples) {
  EXPECT_EQ(to_hex(sha256("")), empty_digest);
  EXPECT_EQ(to_hex(sha256("abc")), abc_digest);
  EXPECT_EQ(to_hex(sha256(std::string(1'000'000, 'a'))), million_a_digest);
}

TEST(Sha256, HashesTheSameInPiecesAsInOne) {
  EXPECT_EQ(to_hex(Sha256Hasher().update("a").update("").update("bc").finish()), abc_digest);
}

TEST(Sha256, StartsAfreshAfterFinish) {
  Sha256Hasher hasher;
  hasher.update("something else");
  hasher.finish();
  EXPECT_EQ(to_hex(hasher.update("abc").finish()), abc_digest);
}

TEST(Sha256, HashesAFileLargerThanItsBuffer) {
  const test::TemporaryDirectory directory;
  const std::string content(3'000'001, 'x');
  std::ofstream(directory / "file") << content;
  EXPECT_EQ(sha256_file(directory / "file").value(), sha256(content));
}

TEST(Sha256, NamesAFileThatIsNotThere) {
  const auto result = sha256_file("/nonexistent/file");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::not_found);
  EXPECT_THAT(result.error().message, HasSubstr("/nonexistent/file"));
}

// RFC 4231, test cases 1 and 2.
TEST(HmacSha256, MatchesTheStandardsExamples) {
  const test::TemporaryDirectory directory;
  const auto hmac = [&](const std::vector<std::uint8_t>& key, const std::string& message) {
    std::ofstream(directory / "file") << message;
    return to_hex(hmac_sha256_file(key, directory / "file").value());
  };
  EXPECT_EQ(hmac(std::vector<std::uint8_t>(20, 0x0b), "Hi There"),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
  EXPECT_EQ(hmac(bytes_of("Jefe"), "what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  EXPECT_EQ(hmac_sha256_file(bytes_of("Jefe"), directory / "absent").error().code, Errc::not_found);
}

TEST(Hex, RoundTripsADigestInEitherCase) {
  const Sha256 digest = sha256("abc");
  EXPECT_EQ(sha256_from_hex(abc_digest).value(), digest);
  EXPECT_EQ(sha256_from_hex("BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD").value(), digest);
}

TEST(Hex, RefusesWhatIsNoDigest) {
  EXPECT_THAT(sha256_from_hex("ba78").error().message, HasSubstr("64 hexadecimal digits, this one 4"));
  std::string bad(abc_digest);
  bad[10] = 'g';
  EXPECT_THAT(sha256_from_hex(bad).error().message, HasSubstr("is not hexadecimal"));
}

TEST(Base64Url, MatchesRfc4648) {
  const std::pair<std::string_view, std::string_view> vectors[] = {
      {"", ""},           {"f", "Zg"},          {"fo", "Zm8"},         {"foo", "Zm9v"},
      {"foob", "Zm9vYg"}, {"fooba", "Zm9vYmE"}, {"foobar", "Zm9vYmFy"}};
  for (const auto& [plain, encoded] : vectors) {
    EXPECT_EQ(to_base64url(bytes_of(plain)), encoded);
    EXPECT_EQ(from_base64url(encoded).value(), bytes_of(plain));
  }
  EXPECT_EQ(to_base64url(std::vector<std::uint8_t>{0xfb, 0xff, 0xbf}), "-_-_");
}

TEST(Base64Url, RoundTripsEveryLengthAndByte) {
  std::vector<std::uint8_t> bytes;
  for (int i = 0; i < 256; ++i) {
    bytes.push_back(static_cast<std::uint8_t>(255 - i));
    const std::string text = to_base64url(bytes);
    EXPECT_EQ(text.find_first_of("+/="), std::string::npos);
    EXPECT_EQ(from_base64url(text).value(), bytes);
  }
}

TEST(Base64Url, AcceptsOneTextForEachValue) {
  for (const std::string_view bad : {"Zg==", "Zh", "Zm9vY", "Zm 9v", "Zm9+", "Zm9/", " Zm9v", "Zm9v\n"}) {
    const auto result = from_base64url(bad);
    ASSERT_FALSE(result) << bad;
    EXPECT_EQ(result.error().code, Errc::invalid_argument);
  }
}

TEST(Base64Url, NeverQuotesTheTextWhichMayBeASecret) {
  EXPECT_EQ(from_base64url("secret!").error().message, "not base64url: character 7 is outside A-Z a-z 0-9 - _");
}

TEST(ConstantTime, ComparesContentAndLength) {
  EXPECT_TRUE(equal_constant_time(bytes_of("token"), bytes_of("token")));
  EXPECT_FALSE(equal_constant_time(bytes_of("token"), bytes_of("tokem")));
  EXPECT_FALSE(equal_constant_time(bytes_of("token"), bytes_of("toke")));
  EXPECT_TRUE(equal_constant_time({}, {}));
}

}  // namespace
}  // namespace trib
