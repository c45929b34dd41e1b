#include "tasks/data/si_blurry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

namespace trib::tasks::data {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAreArray;

// The same word over and over: below(n) is 0 for the word 1, and n − 1 for the largest.
class ConstantWord final : public RandomSource {
 public:
  explicit ConstantWord(std::uint64_t word) : word_(word) {}
  void fill(std::span<std::uint8_t> bytes) override { std::memcpy(bytes.data(), &word_, bytes.size()); }

 private:
  std::uint64_t word_;
};

struct Stream {
  ClassSchedule schedule;
  std::vector<std::vector<std::size_t>> samples;
};

Stream draw(const std::vector<std::int32_t>& labels, std::size_t classes, const SiBlurryOptions& options,
            std::uint64_t seed) {
  ChaCha20Random random(RandomKey::from_seed(seed));
  Stream stream;
  stream.schedule = draw_class_schedule(classes, options, random).value();
  stream.samples = deal_samples(labels, stream.schedule, options, random).value();
  return stream;
}

// `each` samples of each class, class after class.
std::vector<std::int32_t> blocks(std::int32_t classes, std::int32_t each) {
  std::vector<std::int32_t> labels;
  for (std::int32_t c = 0; c < classes; ++c) labels.insert(labels.end(), static_cast<std::size_t>(each), c);
  return labels;
}

TEST(SiBlurry, IsWhatHandGivesWhereEveryDrawIsTheLargest) {
  // Six classes, two tasks, half of them disjoint: floor(3/2)·2 = 2 disjoint, floor(4/2)·2 = 4 blurry. A largest draw
  // leaves a shuffle's order alone and cuts before the last: disjoint 0 | 1, blurry 2 3 4 | 5.
  ConstantWord random(~std::uint64_t{0});
  const SiBlurryOptions options{.tasks = 2, .disjoint_percent = 50, .blurry_percent = 50};
  const ClassSchedule schedule = draw_class_schedule(6, options, random).value();
  EXPECT_THAT(schedule.task_of_class, ElementsAre(1, 2, 1, 1, 1, 2));
  EXPECT_THAT(schedule.is_blurry, ElementsAre(false, false, true, true, true, true));
  // Samples 2, 3, 5, 6 and 7 are blurry: floor(5·50/100) = 2 of them, 2 and 3, are dealt again, cut before the last:
  // 2 to task 1, 3 to task 2. The other three go to their classes' tasks: 5 (class 4) to 1, 6 and 7 (class 5) to 2.
  const std::vector<std::int32_t> labels = {0, 1, 2, 3, 0, 4, 5, 5};
  EXPECT_THAT(deal_samples(labels, schedule, options, random).value(),
              ElementsAre(ElementsAre(0, 4, 2, 5), ElementsAre(1, 3, 6, 7)));
}

TEST(SiBlurry, IsWhatHandGivesWhereEveryDrawIsZero) {
  // A draw of zero turns a list by one, and cuts before everything: all classes come in the last task, in the order
  // 1 2 3 4 5 0. 1 and 2 are disjoint; of 3, 4, 5 and 0, which are blurry, none is left over.
  ConstantWord random(1);
  const SiBlurryOptions options{.tasks = 2, .disjoint_percent = 50, .blurry_percent = 0};
  const ClassSchedule schedule = draw_class_schedule(6, options, random).value();
  EXPECT_THAT(schedule.task_of_class, ElementsAre(2, 2, 2, 2, 2, 2));
  EXPECT_THAT(schedule.is_blurry, ElementsAre(true, false, false, true, true, true));
  const std::vector<std::int32_t> labels = {1, 1, 2};
  EXPECT_THAT(deal_samples(labels, schedule, options, random).value(),
              ElementsAre(ElementsAre(), ElementsAre(1, 2, 0)));
}

TEST(SiBlurry, RoundsTheNumbersOfClassesDownToMultiplesOfTheTasks) {
  struct Case {
    std::size_t classes;
    std::int64_t tasks, disjoint_percent;
    std::ptrdiff_t disjoint, blurry;
  };
  for (const Case& c : {Case{150, 5, 50, 75, 75}, Case{150, 10, 50, 70, 80}, Case{77, 5, 50, 35, 40},
                        Case{10, 5, 50, 5, 5}, Case{100, 5, 0, 0, 100}, Case{100, 5, 100, 100, 0}}) {
    ChaCha20Random random(RandomKey::from_seed(1));
    const ClassSchedule schedule =
        draw_class_schedule(c.classes, {.tasks = c.tasks, .disjoint_percent = c.disjoint_percent}, random).value();
    const auto placed = std::ssize(schedule.task_of_class) - std::ranges::count(schedule.task_of_class, 0);
    const auto blurry = std::ranges::count(schedule.is_blurry, true);
    EXPECT_EQ(blurry, c.blurry) << c.classes;
    EXPECT_EQ(placed - blurry, c.disjoint) << c.classes;
  }
}

TEST(SiBlurry, GivesEverySampleOfAPlacedClassOnceAndADisjointClassToOneTask) {
  const std::vector<std::int32_t> labels = blocks(77, 20);
  const SiBlurryOptions options{.tasks = 5, .disjoint_percent = 50, .blurry_percent = 10};
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const Stream stream = draw(labels, 77, options, seed);
    std::vector<std::size_t> all, expected;
    std::map<std::int32_t, std::set<std::size_t>> tasks;
    for (std::size_t task = 0; task < stream.samples.size(); ++task)
      for (const std::size_t sample : stream.samples[task]) {
        all.push_back(sample);
        tasks[labels[sample]].insert(task + 1);
      }
    for (std::size_t i = 0; i < labels.size(); ++i)
      if (stream.schedule.task_of_class[static_cast<std::size_t>(labels[i])] != 0) expected.push_back(i);
    EXPECT_EQ(expected.size(), 75u * 20u);
    EXPECT_THAT(all, UnorderedElementsAreArray(expected));
    for (const auto& [label, of_label] : tasks) {
      const auto c = static_cast<std::size_t>(label);
      if (stream.schedule.is_blurry[c]) continue;
      EXPECT_EQ(of_label, std::set{static_cast<std::size_t>(stream.schedule.task_of_class[c])});
    }
  }
}

TEST(SiBlurry, DealsItsShareOfBlurrySamplesToAnyTask) {
  // All classes are blurry. Of 2,000 samples 600 are dealt again; those that come back to their class's task among
  // them cannot be told from the others, so a little fewer are away from home.
  const std::vector<std::int32_t> labels = blocks(100, 20);
  double away = 0.0;
  constexpr int draws = 200;
  for (std::uint64_t seed = 0; seed < draws; ++seed) {
    const Stream stream = draw(labels, 100, {.tasks = 4, .disjoint_percent = 0, .blurry_percent = 30}, seed);
    for (std::size_t task = 0; task < 4; ++task)
      for (const std::size_t sample : stream.samples[task])
        away += stream.schedule.task_of_class[static_cast<std::size_t>(labels[sample])] !=
                        static_cast<std::int32_t>(task + 1)
                    ? 1.0
                    : 0.0;
  }
  // Shares of the classes and of the pool are independent spacings p and q with E Σ p·q = 1/4: 600·(3/4) are away.
  EXPECT_NEAR(away / draws, 450.0, 10.0);
  const Stream none = draw(labels, 100, {.tasks = 4, .disjoint_percent = 0, .blurry_percent = 0}, 1);
  for (std::size_t task = 0; task < 4; ++task)
    for (const std::size_t sample : none.samples[task])
      EXPECT_EQ(none.schedule.task_of_class[static_cast<std::size_t>(labels[sample])], task + 1);
}

TEST(SiBlurry, CutsAtUniformPlaces) {
  // The first of K − 1 = 4 sorted uniform places among n has the mean n/5, less 1/2 for the rounding; its standard
  // deviation is n·√(4/(25·6)).
  constexpr int draws = 4000;
  double first = 0.0;
  for (std::uint64_t seed = 0; seed < draws; ++seed) {
    ChaCha20Random random(RandomKey::from_seed(seed));
    const ClassSchedule schedule = draw_class_schedule(1000, {.tasks = 5, .disjoint_percent = 100}, random).value();
    first += static_cast<double>(std::ranges::count(schedule.task_of_class, 1));
  }
  EXPECT_NEAR(first / draws, 199.5, 4.0 * 1000.0 * std::sqrt(4.0 / 150.0) / std::sqrt(draws));
}

TEST(SiBlurry, IsTheSameForTheSameSeedAndAnotherForAnother) {
  const std::vector<std::int32_t> labels = blocks(30, 10);
  EXPECT_EQ(draw(labels, 30, {}, 7).samples, draw(labels, 30, {}, 7).samples);
  EXPECT_NE(draw(labels, 30, {}, 7).samples, draw(labels, 30, {}, 8).samples);
}

TEST(SiBlurry, SaysWhatIsWrongWithItsOptionsAndLabels) {
  ChaCha20Random random(RandomKey::from_seed(1));
  EXPECT_THAT(draw_class_schedule(10, {.tasks = 0}, random).error().message, HasSubstr("at least one task, not 0"));
  EXPECT_THAT(draw_class_schedule(10, {.disjoint_percent = 101}, random).error().message,
              HasSubstr("101 per cent of disjoint classes"));
  EXPECT_THAT(draw_class_schedule(10, {.blurry_percent = -1}, random).error().message,
              HasSubstr("-1 per cent of blurry samples"));
  EXPECT_THAT(draw_class_schedule(4, {.tasks = 5}, random).error().message, HasSubstr("4 classes are too few"));
  const ClassSchedule schedule = draw_class_schedule(10, {}, random).value();
  EXPECT_THAT(deal_samples(std::vector<std::int32_t>{3, 10}, schedule, {}, random).error().message,
              HasSubstr("sample 1 has class 10"));
}

}  // namespace
}  // namespace trib::tasks::data
