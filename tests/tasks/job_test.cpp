#include "tasks/job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <regex>
#include <set>

#include "common/files.h"
#include "tasks/cold_start/config.h"
#include "tasks/lora_text/config.h"
#include "tasks/task.h"

namespace trib::tasks {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr std::string_view smallest = R"([job]
name = "sentiment"
task = "lora_text"
rounds = 60

[model]
base = "roberta-mini-imdb"
labels = ["negative", "positive"]
)";

std::string error_of(std::string_view text) {
  const auto job = read_job_text(text, "job.toml");
  return job ? "" : job.error().message;
}

// The smallest job with more lines: whole sections, as TOML.
std::string with(std::string_view more) {
  return std::string(smallest) + std::string(more);
}

TEST(JobFile, ReadsTheSmallestFileWithItsDefaults) {
  const JobSpec job = read_job_text(smallest, "job.toml").value();
  EXPECT_EQ(job.name, "sentiment");
  EXPECT_EQ(job.rounds, 60);
  EXPECT_TRUE(job.privacy.enabled);
  EXPECT_EQ(job.privacy.epsilon, 8.0);
  EXPECT_EQ(job.selection.order, SelectionOrder::balanced);
  EXPECT_EQ(job.max_participations(), 60);
  const lora_text::Config config = lora_text::config_of(job).value();
  EXPECT_EQ(config.algorithm, lora_text::Algorithm::fedsvd);
  EXPECT_EQ(config.classifier.label_count, 2);
  EXPECT_EQ(config.average_states, 0.9);
}

TEST(JobFile, ReadsEverySectionThatItKnows) {
  const JobSpec job = read_job_text(with(R"(
[adapter]
rank = 4
alpha = 16
targets = ["query", "key", "intermediate.dense"]
blocks = 2
[training]
algorithm = "ffa-orthonormal"
batch_size = 128
local_steps = 5
learning_rate = 0.25
head = "all"
[selection]
clients_per_round = 3
minimum_clients = 2
order = "uniform"
round_deadline = "90s"
[privacy]
epsilon = 3
delta = 1e-6
clip_norm = 2.5
accountant = "pld"
rounds_per_client = 30
[data]
set = "letters"
text_column = "sentence"
[evaluation]
file = "dev.tsv"
average_states = 0.0
[simulate]
sites = 6
train = "train.tsv"
)"),
                                    "job.toml")
                          .value();
  EXPECT_EQ(job.selection.clients_per_round, 3);
  EXPECT_EQ(job.selection.order, SelectionOrder::uniform);
  EXPECT_EQ(job.selection.round_deadline_ms, 90'000);
  EXPECT_EQ(job.privacy.clip_norm, 2.5);
  EXPECT_EQ(job.privacy.accountant, privacy::Accountant::pld);
  EXPECT_EQ(job.max_participations(), 30);
  EXPECT_EQ(job.data_set, "letters");
  EXPECT_EQ(job.simulated_sites, 6);
  const lora_text::Config config = lora_text::config_of(job).value();
  EXPECT_EQ(config.algorithm, lora_text::Algorithm::ffa_orthonormal);
  EXPECT_FALSE(config.classifier.adapter.train_a);
  EXPECT_EQ(config.classifier.adapter.rank, 4);
  EXPECT_EQ(config.classifier.adapter.blocks, 2);
  EXPECT_EQ(config.classifier.head, models::HeadTraining::all);
  EXPECT_EQ(config.table.text_column, "sentence");
  EXPECT_EQ(config.average_states, 0.0);
}

TEST(JobFile, TrainsAOnlyForFedAvg) {
  const JobSpec job = read_job_text(with("[training]\nalgorithm = \"fedavg\"\n"), "job.toml").value();
  EXPECT_TRUE(lora_text::config_of(job).value().classifier.adapter.train_a);
}

TEST(JobFile, StoresTheBaseInFewBitsOnlyForProductsInBf16) {
  const auto text = [](const std::string& line) {
    return std::regex_replace(std::string(smallest), std::regex("\\[model\\]"), "[model]\n" + line);
  };
  const auto classifier = [&](const std::string& line) {
    return lora_text::config_of(read_job_text(text(line), "job.toml").value()).value().classifier;
  };
  EXPECT_EQ(classifier("precision = \"fp8\"").precision, models::Precision::fp8);
  EXPECT_EQ(classifier("precision = \"tf32\"").precision, models::Precision::tf32);
  EXPECT_EQ(classifier("precision = \"bf16\"").base_bits, 16);
  EXPECT_EQ(classifier("precision = \"bf16\"\nbase_bits = 4").base_bits, 4);
  for (const std::string precision : {"fp8", "tf32"})
    EXPECT_THAT(error_of(text("precision = \"" + precision + "\"\nbase_bits = 4")),
                AllOf(HasSubstr("job.toml:8"), HasSubstr("model.base_bits"), HasSubstr("model.precision = \"bf16\"")));
  EXPECT_THAT(error_of(text("base_bits = 8")), HasSubstr("model.precision = \"bf16\""));
  EXPECT_THAT(error_of(text("precision = \"bf16\"\nbase_bits = 6")), HasSubstr("must be 16, 8 or 4, not 6"));
}

TEST(JobFile, NamesFileLineAndKeyOfAnUnknownKeyAndTheNearestKnownOne) {
  EXPECT_THAT(error_of(with("\n[training]\nlocal_step = 3\n")),
              AllOf(HasSubstr("job.toml:11"), HasSubstr("training.local_step"), HasSubstr("training.local_steps")));
}

TEST(JobFile, NamesFileLineKeyAndAcceptedValuesOfABadValue) {
  EXPECT_THAT(error_of(with("\n[training]\nalgorithm = \"fedsdv\"\n")),
              AllOf(HasSubstr("job.toml:11"), HasSubstr("training.algorithm"), HasSubstr("fedsdv"), HasSubstr("fedsvd"),
                    HasSubstr("ffa-orthonormal"), HasSubstr("fedavg")));
  EXPECT_THAT(error_of(with("\n[adapter]\ntargets = [\"query\", \"quarry\"]\n")),
              AllOf(HasSubstr("job.toml:11"), HasSubstr("quarry"), HasSubstr("attention.output.dense")));
}

TEST(JobFile, NamesTheAccountantsThereAre) {
  EXPECT_THAT(error_of(with("[privacy]\naccountant = \"prv\"\n")),
              AllOf(HasSubstr("job.toml:10"), HasSubstr("privacy.accountant"), HasSubstr("prv"), HasSubstr("rdp"),
                    HasSubstr("pld")));
}

TEST(JobFile, ClipsWithoutPrivacyOnlyWhereItSaysSo) {
  const auto clip_norm = [](const std::string& lines) {
    return read_job_text(with("[privacy]\n" + lines), "job.toml").value().privacy.clip_norm;
  };
  EXPECT_EQ(clip_norm(""), 1.0);
  EXPECT_EQ(clip_norm("enabled = false\n"), 0.0);
  EXPECT_EQ(clip_norm("enabled = false\nclip_norm = 0.5\n"), 0.5);
}

TEST(JobFile, KeepsEpsilonDeltaAndClipNormInsideTheirRanges) {
  for (const char* line :
       {"epsilon = 0", "epsilon = 64.5", "epsilon = nan", "delta = 0.0", "delta = 0.02", "delta = -1e-5",
        "clip_norm = 0", "clip_norm = -1", "rounds_per_client = -1", "noise = \"gaussian\"", "clipping = \"auto\""}) {
    EXPECT_THAT(error_of(with("[privacy]\n" + std::string(line) + "\n")),
                AllOf(HasSubstr("job.toml:10"), HasSubstr("privacy.")))
        << line;
  }
  for (const char* line : {"epsilon = 64", "epsilon = 0.1", "delta = 0.01", "clip_norm = 0.001"}) {
    EXPECT_EQ(error_of(with("[privacy]\n" + std::string(line) + "\n")), "") << line;
  }
}

TEST(JobFile, NoisesOnTheGridAndClipsFlatUnlessItSaysOtherwise) {
  const JobSpec plain = read_job_text(with(""), "job.toml").value();
  EXPECT_EQ(plain.privacy.noise, privacy::NoiseKind::discrete_gaussian);
  EXPECT_EQ(plain.privacy.clipping, privacy::Clipping::flat);
  const JobSpec other =
      read_job_text(with("[privacy]\nnoise = \"float_gaussian\"\nclipping = \"automatic\"\n"), "job.toml").value();
  EXPECT_EQ(other.privacy.noise, privacy::NoiseKind::float_gaussian);
  EXPECT_EQ(other.privacy.clipping, privacy::Clipping::automatic);
  EXPECT_THAT(error_of(with("[privacy]\nnoise = \"gaussian\"\n")),
              AllOf(HasSubstr("privacy.noise"), HasSubstr("discrete_gaussian"), HasSubstr("float_gaussian")));
}

TEST(JobFile, EvaluatesAtSitesOnlyWhereItSaysSo) {
  EXPECT_FALSE(read_job_text(with(""), "job.toml").value().site_evaluation.enabled);
  JobSpec job = read_job_text(with("[site_evaluation]\nenabled = true\nepsilon = 0.5\n"), "job.toml").value();
  EXPECT_TRUE(job.site_evaluation.enabled);
  EXPECT_EQ(job.site_evaluation.epsilon, 0.5);
  EXPECT_THAT(error_of(with("[site_evaluation]\nepsilon = 0\n")), HasSubstr("site_evaluation.epsilon"));
  job.rounds = 60, job.evaluate_every = 25;  // rounds 25, 50 and 60
  EXPECT_EQ(job.max_evaluations(), 3);
  std::int64_t evaluated = 0;
  for (std::int64_t round = 1; round <= 60; ++round) evaluated += job.is_evaluated(round) ? 1 : 0;
  EXPECT_EQ(evaluated, 3);
  job.privacy.rounds_per_client = 2;
  EXPECT_EQ(job.max_evaluations(), 2);
}

TEST(JobFile, AllowsOverSelectionOnlyWithoutPrivacy) {
  EXPECT_THAT(error_of(with("[selection]\nover_selection = 1.5\n")),
              AllOf(HasSubstr("job.toml:10"), HasSubstr("selection.over_selection"), HasSubstr("privacy.enabled")));
  EXPECT_EQ(error_of(with("[selection]\nover_selection = 1.5\n[privacy]\nenabled = false\n")), "");
}

TEST(JobFile, RefusesNumbersThatContradictEachOther) {
  EXPECT_THAT(error_of(with("[selection]\nclients_per_round = 2\nminimum_clients = 3\n")),
              AllOf(HasSubstr("selection.minimum_clients"), HasSubstr("clients_per_round = 2")));
  EXPECT_THAT(error_of(with("[selection]\nexpected_clients = 1\nminimum_clients = 3\n")),
              HasSubstr("selection.expected_clients"));
  EXPECT_THAT(error_of(with("[privacy]\nrounds_per_client = 61\n")),
              AllOf(HasSubstr("privacy.rounds_per_client"), HasSubstr("job.rounds = 60")));
  EXPECT_THAT(error_of(with("[data]\ntext_column = \"label\"\n")), HasSubstr("data.label_column"));
}

TEST(JobFile, RefusesLabelsThatAreTooFewTwiceOrEmpty) {
  const auto labelled = [](std::string_view labels) {
    return error_of("[job]\nname = \"a\"\ntask = \"lora_text\"\nrounds = 1\n[model]\nbase = \"b\"\nlabels = " +
                    std::string(labels) + "\n");
  };
  EXPECT_EQ(labelled(R"(["x", "y"])"), "");
  EXPECT_THAT(labelled(R"(["x"])"), AllOf(HasSubstr("job.toml:7"), HasSubstr("at least two")));
  EXPECT_THAT(labelled(R"(["x", "x"])"), HasSubstr("twice"));
  EXPECT_THAT(labelled(R"(["x", ""])"), HasSubstr("empty"));
}

TEST(JobFile, RefusesATaskThatThisBuildLacksAndListsThoseThereAre) {
  EXPECT_THAT(error_of("[job]\nname = \"a\"\ntask = \"lora_image\"\nrounds = 1\n"),
              AllOf(HasSubstr("job.toml:3"), HasSubstr("job.task"), HasSubstr("lora_text")));
  EXPECT_THAT(find_task("lora_image").error().message, AllOf(HasSubstr("lora_image"), HasSubstr("lora_text")));
}

TEST(JobFile, RefusesANameThatCouldNotBeAFileName) {
  for (const char* name : {"", ".hidden", "a/b", "a b", "ü"}) {
    EXPECT_THAT(error_of("[job]\nname = \"" + std::string(name) + "\"\ntask = \"lora_text\"\nrounds = 1\n"),
                HasSubstr("job.name"))
        << name;
  }
}

TEST(JobFile, SaysWhatIsMissing) {
  EXPECT_THAT(error_of("[job]\nname = \"a\"\ntask = \"lora_text\"\n"), HasSubstr("job.rounds is missing"));
}

TEST(JobFile, TakesOverridesAndCarriesThemInItsText) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / "job_test.toml";
  ASSERT_TRUE(write_file_durably(path, smallest).ok());
  const JobSpec job = read_job_file(path, {"job.seed=9", "privacy.epsilon=2", "model.base=other"}).value();
  const JobSpec again = read_job_text(job.file_text, "stored").value();
  EXPECT_EQ(again.seed, 9u);
  EXPECT_EQ(again.privacy.epsilon, 2.0);
  EXPECT_EQ(lora_text::config_of(again).value().base, "other");
  const auto bad = read_job_file(path, {"privacy.epsilon=200"});
  ASSERT_FALSE(bad.ok());
  EXPECT_THAT(bad.error().message, AllOf(HasSubstr("--set privacy.epsilon=200"), HasSubstr("64")));
}

// The reference in docs/job-file.md: key to the cell with its default, from the rows of the tables that hold for every
// job and for `task`.
std::map<std::string, std::string> documented_keys(const std::string& task = "lora_text") {
  std::ifstream file(std::filesystem::path(TRIBUTARY_SOURCE_DIR) / "docs/job-file.md");
  const std::regex row(R"(^\| `([a-z_]+\.[a-z0-9_]+)` \| [^|]* \| ([^|]*) \|.*)");
  std::map<std::string, std::string> keys;
  bool is_meant = true;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("## ")) is_meant = line == "## Every job" || line.find("`" + task + "`") != line.npos;
    std::smatch cells;
    if (is_meant && std::regex_match(line, cells, row)) keys[cells[1]] = cells[2];
  }
  return keys;
}

// The default as TOML, or what the smallest job says where there is none.
std::string documented_value(const std::string& key, const std::string& cell) {
  static const std::map<std::string, std::string> required = {{"job.name", "\"sentiment\""},
                                                              {"job.task", "\"lora_text\""},
                                                              {"job.rounds", "60"},
                                                              {"model.base", "\"roberta-mini-imdb\""},
                                                              {"model.labels", "[\"negative\", \"positive\"]"}};
  if (cell == "required") return required.at(key);
  return cell.substr(1, cell.size() - 2);  // without its backquotes
}

std::string describe(const JobSpec& job) {
  const lora_text::Config c = lora_text::config_of(job).value();
  const auto& s = job.selection;
  const auto& p = job.privacy;
  std::ostringstream out;
  out << job.evaluate_every << ' ' << job.seed << ' ' << s.clients_per_round << ' ' << s.minimum_clients << ' '
      << s.over_selection << ' ' << static_cast<int>(s.order) << ' ' << s.expected_clients << ' ' << s.round_deadline_ms
      << ' ' << s.start_deadline_ms << ' ' << s.round_retries << ' ' << p.enabled << ' ' << p.epsilon << ' ' << p.delta
      << ' ' << p.clip_norm << ' ' << static_cast<int>(p.accountant) << ' ' << static_cast<int>(p.noise_by) << ' '
      << p.rounds_per_client << ' ' << job.data_set << ' ' << job.simulated_sites << ' ' << c.base_sha256.has_value()
      << ' ' << static_cast<int>(c.classifier.precision) << ' ' << c.classifier.max_tokens << ' '
      << c.classifier.adapter.rank << ' ' << c.classifier.adapter.alpha << ' ' << c.classifier.adapter.blocks << ' '
      << c.classifier.adapter.targets.size() << ' ' << static_cast<int>(c.classifier.head) << ' '
      << to_string(c.algorithm) << ' ' << c.batch_size << ' ' << c.local_steps << ' ' << c.learning_rate << ' '
      << c.table.format << ' ' << c.table.text_column << ' ' << c.table.label_column << ' ' << c.evaluation_file << ' '
      << c.evaluation_limit << ' ' << c.average_states << ' ' << c.simulated_file << ' ' << c.dirichlet_alpha << ' '
      << c.minimum_records;
  return out.str();
}

TEST(JobFileReference, GivesForEveryKeyADefaultThatIsTheDefault) {
  std::map<std::string, std::string> sections;
  for (const auto& [key, cell] : documented_keys()) {
    const std::size_t dot = key.find('.');
    sections[key.substr(0, dot)] += key.substr(dot + 1) + " = " + documented_value(key, cell) + "\n";
  }
  std::string text;
  for (const auto& [section, lines] : sections) text += "[" + section + "]\n" + lines;
  const JobSpec explicit_defaults = read_job_text(text, "docs/job-file.md").value();
  EXPECT_EQ(describe(explicit_defaults), describe(read_job_text(smallest, "job.toml").value()));
}

// What a section accepts, as the error about an unknown key lists it.
std::set<std::string> accepted_keys(const std::string& section, std::string text = std::string(smallest)) {
  const std::string header = "[" + section + "]\n";
  if (const std::size_t at = text.find(header); at != std::string::npos) {
    text.insert(at + header.size(), "no_such_key_at_all = 1\n");
  } else {
    text += header + "no_such_key_at_all = 1\n";
  }
  const std::string error = error_of(text);
  const std::string marker = "in [" + section + "]: ";
  const std::size_t begin = error.find(marker);
  std::set<std::string> keys;
  if (begin == std::string::npos) return keys;
  const std::string list = error.substr(begin + marker.size());
  const std::regex word("[a-z0-9_]+");
  for (auto it = std::sregex_iterator(list.begin(), list.end(), word); it != std::sregex_iterator(); ++it) {
    keys.insert(section + "." + it->str());
  }
  return keys;
}

TEST(JobFileReference, ListsEveryKeyThatIsAcceptedAndNoOther) {
  std::set<std::string> documented, sections, accepted;
  for (const auto& [key, cell] : documented_keys()) {
    documented.insert(key);
    sections.insert(key.substr(0, key.find('.')));
  }
  for (const std::string& section : sections) accepted.merge(accepted_keys(section));
  EXPECT_EQ(documented, accepted);
  // And no section is missing from the reference.
  std::string listed;
  for (const std::string& section : sections) listed += (listed.empty() ? "" : ", ") + section;
  EXPECT_THAT(error_of(with("[no_such_section]\n")), HasSubstr(": " + listed));
}

constexpr const char* smallest_cold_start = "[job]\nname = \"films\"\ntask = \"cold_start\"\nrounds = 60\n";

TEST(JobFileReference, ListsEveryKeyOfColdStartWithItsDefault) {
  std::map<std::string, std::string> sections;
  std::set<std::string> documented, accepted;
  for (const auto& [key, cell] : documented_keys("cold_start")) {
    documented.insert(key);
    const std::size_t dot = key.find('.');
    std::string value = key == "job.name" ? "\"films\"" : documented_value(key, cell);
    if (key == "job.task") value = "\"cold_start\"";
    sections[key.substr(0, dot)] += key.substr(dot + 1) + " = " + value + "\n";
  }
  std::string text;
  for (const auto& [section, lines] : sections) {
    text += "[" + section + "]\n" + lines;
    accepted.merge(accepted_keys(section, smallest_cold_start));
  }
  EXPECT_EQ(documented, accepted);
  const auto config_of = [](std::string_view job) {
    return cold_start::config_of(read_job_text(job, "job.toml").value()).value();
  };
  EXPECT_EQ(config_of(text), config_of(smallest_cold_start));
}

// --- Clients that are one person each ---

std::string sampled(std::string_view selection, std::string_view privacy) {
  return std::string(smallest_cold_start) + "[selection]\norder = \"poisson\"\n" + std::string(selection) +
         "[privacy]\n" + std::string(privacy);
}

TEST(SampledJobFile, SaysThatItTrustsTheAggregator) {
  const JobSpec job =
      read_job_text(sampled("clients_per_round = 10\nexpected_clients = 100\n", "noise_by = \"aggregator\"\n"),
                    "job.toml")
          .value();
  EXPECT_TRUE(job.trusts_aggregator());
  EXPECT_FALSE(job.noise_at_sites());
  const JobSpec open =
      read_job_text(sampled("clients_per_round = 10\nexpected_clients = 100\n", "enabled = false\n"), "job.toml")
          .value();
  EXPECT_FALSE(open.trusts_aggregator());
}

TEST(SampledJobFile, NeedsAPopulationNoisePlacedAtTheAggregatorAndNobodyLeftOut) {
  const std::string enough = "clients_per_round = 10\nexpected_clients = 100\n", noise = "noise_by = \"aggregator\"\n";
  EXPECT_THAT(error_of(sampled("", noise)), AllOf(HasSubstr("selection.order"), HasSubstr("expected_clients")));
  EXPECT_THAT(error_of(sampled("clients_per_round = 10\nexpected_clients = 9\n", noise)), HasSubstr("selection.order"));
  EXPECT_THAT(error_of(sampled(enough, "")), AllOf(HasSubstr("privacy.noise_by"), HasSubstr("\"aggregator\"")));
  EXPECT_THAT(error_of(sampled(enough, noise + "rounds_per_client = 3\n")), HasSubstr("rounds_per_client = 0"));
  EXPECT_THAT(error_of(std::string(smallest_cold_start) + "[privacy]\n" + noise), HasSubstr("\"poisson\""));
}

TEST(SampledJobFile, IsRefusedForATaskWhoseClientsSendModels) {
  EXPECT_THAT(error_of(with("[selection]\norder = \"poisson\"\nclients_per_round = 10\nexpected_clients = 100\n"
                            "[privacy]\nnoise_by = \"aggregator\"\n")),
              AllOf(HasSubstr("privacy.noise_by"), HasSubstr("lora_text")));
}

}  // namespace
}  // namespace trib::tasks
