// How a mechanism is written down, and read again.
#include "privacy/mechanism.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ledger_fixture.h"
#include "privacy/ledger_file.h"
#include "privacy/sealed.h"

namespace trib::privacy {
namespace {

using testing::HasSubstr;
using testing::Not;

LedgerEntry entry_of(const Charge& charge) {
  LedgerEntry entry;
  entry.number = 1;
  entry.time = "2026-01-01T00:00:00.000Z";
  entry.charge = charge;
  return entry;
}

std::string rendered(const Charge& charge) {
  return render_ledger_entry(entry_of(charge), *owner().signer).value();
}

// `line` with another text in the place of `text` and sealed again, as another version of the program
// would have written it.
std::string with(std::string line, const std::string& text, const std::string& other) {
  const std::size_t at = line.find(text);
  EXPECT_NE(at, std::string::npos) << text << " in " << line;
  line.replace(at, text.size(), other);
  line.erase(line.find(",\"hash\":"));
  return seal(line, *owner().signer).value();
}

TEST(MechanismInTheLedger, SaysItsNoiseAndItsClipping) {
  for (const NoiseKind noise : {NoiseKind::discrete_gaussian, NoiseKind::float_gaussian}) {
    for (const Clipping clipping : {Clipping::flat, Clipping::automatic}) {
      Charge charge = charge_of("j", 1);
      charge.mechanism.noise = noise;
      charge.mechanism.clipping = clipping;
      const std::string line = rendered(charge);
      EXPECT_THAT(line, HasSubstr(noise == NoiseKind::float_gaussian ? R"("noise":"float_gaussian")"
                                                                     : R"("noise":"discrete_gaussian")"));
      const Mechanism read = parse_ledger_entry(line).value().charge.mechanism;
      EXPECT_EQ(read.noise, noise);
      EXPECT_EQ(read.clipping, clipping);
      EXPECT_EQ(read.noise_multiplier, charge.mechanism.noise_multiplier);
      // A crash that leaves what costs also leaves what kind of noise it was.
      const auto torn = parse_torn_line(line.substr(0, line.find("\"job\"")));
      EXPECT_EQ(torn.mechanism.value().noise, noise);
    }
  }
}

TEST(MechanismInTheLedger, NoiseOfAnUnknownKindIsNotReadAsAnother) {
  const std::string line = rendered(charge_of("j", 1));
  for (const char* known : {"discrete_gaussian", "flat"})
    EXPECT_FALSE(parse_ledger_entry(with(line, known, "new")).ok());
}

TEST(MechanismInTheLedger, WithoutPrivacyThereIsNoNoiseToName) {
  EXPECT_THAT(rendered(non_private_charge("j", 1)), Not(HasSubstr("\"noise\":")));
}

}  // namespace
}  // namespace trib::privacy
