// Runs the scenarios in tests/faults/scenarios: who is there, what goes wrong, and how it must come out. README.md has
// the words they are written in.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "tests/faults/world.h"

namespace trib::server::testing {
namespace {

[[noreturn]] void bad_line(const std::string& line, const std::string& why) {
  throw std::runtime_error("scenario line '" + line + "': " + why);
}

Milliseconds seconds_of(const std::string& text, const std::string& line) {
  if (text.empty() || text.back() != 's') bad_line(line, "expected seconds like 30s, not '" + text + "'");
  return Milliseconds(1000 * std::stoll(text));
}

// A plan in which exactly the faults of a scenario happen, each once.
class ScenarioPlan final : public Plan {
 public:
  void add_fault(int site, std::int64_t round, SiteFault fault) { faults_[{site, round}] = fault; }
  void add_crash(const std::string& point, int occurrence) { crashes_[point].insert(occurrence); }

  SiteFault fault(int site, std::int64_t round) override {
    const auto found = faults_.find({site, round});
    if (found == faults_.end()) return {};
    const SiteFault fault = found->second;
    faults_.erase(found);
    return fault;
  }
  bool crashes(std::string_view point) override {
    const auto found = crashes_.find(point);
    return found != crashes_.end() && found->second.erase(++seen_[std::string(point)]) > 0;
  }
  // What the scenario asked for and did not happen.
  std::string unused() const {
    std::string text;
    for (const auto& [key, fault] : faults_)
      text += " a fault of site-" + std::to_string(key.first + 1) + " in round " + std::to_string(key.second);
    for (const auto& [point, occurrences] : crashes_)
      if (!occurrences.empty()) text += " a crash " + point;
    return text;
  }

 private:
  std::map<std::pair<int, std::int64_t>, SiteFault> faults_;
  std::map<std::string, std::set<int>, std::less<>> crashes_;
  std::map<std::string, int> seen_;
};

struct Scenario {
  tasks::JobSpec spec = counting_job(1);
  int sites = 1;
  ScenarioPlan plan;
  struct Expectation {
    std::string line;
    std::vector<std::string> words;  // after "expect"
  };
  std::vector<Expectation> expectations;
};

void read_job_words(std::istringstream& words, const std::string& line, tasks::JobSpec& spec) {
  for (std::string word; words >> word;) {
    const auto equals = word.find('=');
    if (equals == std::string::npos) bad_line(line, "expected key=value, not '" + word + "'");
    const std::string key = word.substr(0, equals), value = word.substr(equals + 1);
    if (key == "rounds") {
      spec.rounds = std::stoll(value);
    } else if (key == "clients_per_round") {
      spec.selection.clients_per_round = std::stoll(value);
    } else if (key == "minimum_clients") {
      spec.selection.minimum_clients = std::stoll(value);
    } else if (key == "over_selection") {
      spec.selection.over_selection = std::stod(value);
    } else if (key == "round_deadline") {
      spec.selection.round_deadline_ms = seconds_of(value, line).count();
    } else if (key == "round_retries") {
      spec.selection.round_retries = std::stoll(value);
    } else if (key == "rounds_per_client") {
      spec.privacy.rounds_per_client = std::stoll(value);
    } else {
      bad_line(line, "unknown key '" + key + "'");
    }
  }
}

// "site-2 round 1 late 90s"
void read_fault(std::istringstream& words, const std::string& line, ScenarioPlan& plan) {
  static const std::map<std::string, Fault> faults = {{"silent", Fault::silent},
                                                      {"declines", Fault::declines},
                                                      {"over-budget", Fault::over_budget},
                                                      {"twice", Fault::twice},
                                                      {"late", Fault::late},
                                                      {"disconnects", Fault::disconnects},
                                                      {"dies", Fault::dies},
                                                      {"bad-values", Fault::bad_values},
                                                      {"wrong-layout", Fault::wrong_layout},
                                                      {"not-private", Fault::not_private}};
  std::string site, round_word, fault, duration;
  std::int64_t round = 0;
  words >> site >> round_word >> round >> fault;
  const auto found = faults.find(fault);
  if (!site.starts_with("site-") || round_word != "round" || found == faults.end())
    bad_line(line, "expected 'fault site-N round R KIND [DURATION]'");
  words >> duration;
  const bool takes_time =
      found->second == Fault::late || found->second == Fault::disconnects || found->second == Fault::dies;
  if (takes_time == duration.empty()) bad_line(line, takes_time ? "a duration is missing" : "no duration belongs here");
  plan.add_fault(std::stoi(site.substr(5)) - 1, round,
                 {found->second, takes_time ? seconds_of(duration, line) : Milliseconds(0)});
}

std::unique_ptr<Scenario> read_scenario(const std::filesystem::path& path) {
  auto scenario = std::make_unique<Scenario>();
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line.substr(0, line.find('#')));
    std::string word;
    if (!(words >> word)) continue;
    if (word == "sites") {
      words >> scenario->sites;
    } else if (word == "job") {
      read_job_words(words, line, scenario->spec);
    } else if (word == "fault") {
      read_fault(words, line, scenario->plan);
    } else if (word == "crash") {
      std::string when, call;
      int occurrence = 1;
      words >> when >> call >> occurrence;
      if (when != "before" && when != "after") bad_line(line, "expected 'crash before|after CALL [N]'");
      scenario->plan.add_crash(when + " " + call, std::max(occurrence, 1));
    } else if (word == "expect") {
      Scenario::Expectation expectation{line, {}};
      while (words >> word) expectation.words.push_back(word);
      if (expectation.words.size() < 2) bad_line(line, "expected 'expect WHAT VALUE…'");
      scenario->expectations.push_back(std::move(expectation));
    } else {
      bad_line(line, "unknown word '" + word + "'");
    }
  }
  return scenario;
}

void check(const Scenario::Expectation& expectation, World& world) {
  SCOPED_TRACE(expectation.line);
  const auto& words = expectation.words;
  if (words[0] == "state") {
    EXPECT_EQ(to_string(world.job().state), words[1]) << world.job().reason;
  } else if (words[0] == "rounds") {
    EXPECT_EQ(std::to_string(world.committed_rounds().size()), words[1]);
  } else if (words[0] == "counted") {  // counted ROUND SITE…
    EXPECT_EQ(world.counted(std::stoll(words[1])), std::set<std::string>(words.begin() + 2, words.end()));
  } else if (words[0] == "contributions") {  // contributions ROUND N
    EXPECT_EQ(std::to_string(world.counted(std::stoll(words[1])).size()), words.at(2));
  } else if (words[0] == "attempts") {  // attempts ROUND N
    EXPECT_EQ(std::to_string(world.committed_rounds().at(std::stoul(words[1]) - 1).attempt), words.at(2));
  } else if (words[0] == "crashes") {
    EXPECT_EQ(std::to_string(world.crashes()), words[1]);
  } else if (words[0] == "reason") {
    std::string wanted;
    for (std::size_t i = 1; i < words.size(); ++i) wanted += (i > 1 ? " " : "") + words[i];
    EXPECT_THAT(world.job().reason, ::testing::HasSubstr(wanted));
  } else {
    bad_line(expectation.line, "unknown expectation '" + words[0] + "'");
  }
}

std::vector<std::filesystem::path> scenarios() {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(TRIBUTARY_SOURCE_DIR "/tests/faults/scenarios"))
    if (entry.path().extension() == ".txt") paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  return paths;
}

class FaultScenario : public ::testing::TestWithParam<std::filesystem::path> {};

TEST_P(FaultScenario, ComesOutAsWritten) {
  const auto scenario = read_scenario(GetParam());
  ASSERT_FALSE(scenario->expectations.empty());
  World world(scenario->spec, scenario->sites, scenario->plan, 1);
  world.run();
  for (const auto& expectation : scenario->expectations) check(expectation, world);
  EXPECT_EQ(scenario->plan.unused(), "") << "never happened";
}

INSTANTIATE_TEST_SUITE_P(Scenarios, FaultScenario, ::testing::ValuesIn(scenarios()), [](const auto& test) {
  std::string name = test.param.stem().string();
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace trib::server::testing
