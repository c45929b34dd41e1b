#include "cli/job_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace trib::cli {
namespace {

namespace json = boost::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

// A report in the middle of a private job: round 3 of 20, one site trains, one has handed in.
json::object report() {
  return json::parse(R"({
    "id": "domains-1", "name": "domains", "state": "collecting", "reason": "", "waiting": null,
    "rounds_done": 2, "rounds_total": 20, "seconds": 71.0, "epsilon": 8.0, "delta": 1e-5,
    "result": {"evaluated": 1, "accuracy": 0.5, "accuracy_average": 0.625},
    "evaluations": [{"round": 2, "metrics": {"accuracy": 0.5, "accuracy_average": 0.625}}],
    "clients": [
      {"name": "north", "status": "training", "reason": "", "round": 3, "step": 2, "steps": 8,
       "epsilon_spent": 2.5, "epsilon_budget": 8.0, "bytes_down": 1000, "bytes_up": 500},
      {"name": "south-west", "status": "contributed", "reason": "", "round": 3, "step": 8, "steps": 8,
       "epsilon_spent": 4.0, "epsilon_budget": 8.0, "bytes_down": 2000000, "bytes_up": 0}]
  })")
      .as_object();
}

TEST(JobLines, ShowTheJobAndALineForEverySite) {
  const auto lines = job_lines(report());
  ASSERT_THAT(lines, SizeIs(3));
  EXPECT_THAT(lines[0], HasSubstr("domains"));
  EXPECT_THAT(lines[0], HasSubstr("round 2/20"));
  EXPECT_THAT(lines[0], HasSubstr("average's accuracy 62.5 %"));
  EXPECT_THAT(lines[0], HasSubstr("1 min 11 s"));
  EXPECT_THAT(lines[0], HasSubstr("collecting"));
  EXPECT_THAT(lines[1], HasSubstr("north"));
  EXPECT_THAT(lines[1], HasSubstr("2/8"));
  EXPECT_THAT(lines[1], HasSubstr("eps 2.50 of 8.00"));
  EXPECT_THAT(lines[1], HasSubstr("1.5 kB"));
  EXPECT_THAT(lines[1], HasSubstr("training"));
  EXPECT_THAT(lines[2], HasSubstr("eps 4.00 of 8.00"));
  EXPECT_THAT(lines[2], HasSubstr("2.0 MB"));
}

TEST(JobLines, SayWhatTheJobWaitsFor) {
  json::object waiting = report();
  waiting["waiting"] = json::object{{"reason", "2 of 3 sites have accepted"}};
  EXPECT_EQ(job_lines(waiting)[1], "  waiting: 2 of 3 sites have accepted");
}

TEST(JobLines, SayWhyASiteRefused) {
  json::object refused = report();
  json::object& site = refused["clients"].as_array()[0].as_object();
  site["status"] = "refused";
  site["reason"] = "over its budget";
  site["epsilon_spent"] = site["epsilon_budget"] = 0.0;
  const std::string line = job_lines(refused)[1];
  EXPECT_THAT(line, HasSubstr("refused: over its budget"));
  EXPECT_THAT(line, Not(HasSubstr("not private"))) << "the site has no budget in a private job; the job is private";
}

TEST(JobLines, SayThatAJobIsNotPrivate) {
  json::object open = report();
  open["epsilon"] = nullptr;
  for (json::value& site : open["clients"].as_array()) site.as_object()["epsilon_spent"] = nullptr;
  EXPECT_THAT(job_lines(open)[1], HasSubstr("not private"));
}

TEST(JobLines, NameTwelveSitesAndCountTheRest) {
  json::object large = report();
  json::array& sites = large["clients"].as_array();
  while (sites.size() < 100) sites.push_back(json::value(sites[0]));
  const auto lines = job_lines(large);
  ASSERT_THAT(lines, SizeIs(14));
  EXPECT_EQ(lines.back(), "  and 88 more");
}

TEST(JobLines, HaveADashForAnAccuracyThatIsNotKnownYet) {
  json::object fresh = report();
  fresh["result"] = json::object{{"evaluated", 0}};
  EXPECT_EQ(accuracy_text(fresh), "-");
  EXPECT_THAT(job_lines(fresh)[0], HasSubstr("accuracy -"));
}

TEST(AccuracyText, FallsBackToTheLastRoundWithoutARunningAverage) {
  EXPECT_EQ(accuracy_text(json::object{{"result", json::object{{"accuracy", 0.25}}}}), "25.0 %");
}

TEST(JobProgressLog, SaysEveryEvaluatedRoundOnce) {
  JobProgressLog log;
  json::object now = report();
  EXPECT_THAT(log.new_lines(now), ElementsAre("round 2    accuracy 50.0 %   running average 62.5 %"));
  EXPECT_THAT(log.new_lines(now), IsEmpty());
  now["evaluations"].as_array().push_back(json::object{{"round", 4}, {"metrics", json::object{{"accuracy", 0.75}}}});
  EXPECT_THAT(log.new_lines(now), ElementsAre("round 4    accuracy 75.0 %   running average -"));
}

TEST(JobProgressLog, SaysOnceHowTheJobEnded) {
  JobProgressLog log;
  json::object now = report();
  now["evaluations"].as_array().clear();
  EXPECT_THAT(log.new_lines(now), IsEmpty());
  now["state"] = "failed";
  now["reason"] = "too few sites";
  EXPECT_THAT(log.new_lines(now), ElementsAre("failed: too few sites"));
  EXPECT_THAT(log.new_lines(now), IsEmpty());
}

TEST(Fields, OfTheWrongTypeCountAsAbsent) {
  const json::object object{{"text", "x"}, {"number", 2.5}, {"nothing", nullptr}};
  EXPECT_EQ(text_of(object, "number"), "");
  EXPECT_EQ(text_of(object, "text"), "x");
  EXPECT_EQ(integer_of(object, "number"), 2);
  EXPECT_EQ(integer_of(object, "text"), 0);
  EXPECT_TRUE(std::isnan(number_of(object, "nothing")));
  EXPECT_TRUE(std::isnan(number_of(object, "missing")));
}

}  // namespace
}  // namespace trib::cli
