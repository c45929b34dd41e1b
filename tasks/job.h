// A job as its file describes it: the part that every task shares. The task's own sections are read by the task.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/result.h"
#include "privacy/mechanism.h"
#include "privacy/plan.h"

namespace trib::tasks {

// How the aggregator chooses the sites of a round.
enum class SelectionOrder {
  balanced,  // a fresh random permutation of the sites, dealt out round by round: everyone has had a turn before
             // anyone's next
  uniform,   // an independent uniform choice each round
  poisson,   // every client independently with probability clients_per_round/expected_clients, and nobody knows whom:
             // for clients that are one person each. A round may be empty, and is never filled up
};

struct SelectionSpec {
  std::int64_t clients_per_round = 0;  // 0: every site that takes part
  std::int64_t minimum_clients = 1;    // contributions without which a round is not committed
  double over_selection =
      1.0;  // chosen = ceil(clients_per_round · over_selection); 1.0 under DP (a late site would spend for nothing)
  SelectionOrder order = SelectionOrder::balanced;
  std::int64_t expected_clients = 0;  // start once so many sites have accepted the job; 0: minimum_clients
  std::int64_t round_deadline_ms =
      600'000;                         // then the round is closed with what there is, or retried below the minimum
  std::int64_t start_deadline_ms = 0;  // how long to wait for expected_clients; 0: for ever
  std::int64_t round_retries = 3;      // how often a round below the minimum is tried again before the job fails
};

// Who adds the noise.
enum class NoiseBy {
  site,        // each site to its own sum, under its own ledger: nobody else has to be trusted
  aggregator,  // the aggregator, once, to a sum over persons, under its own ledger (privacy/cohort.h): it is trusted
};

struct PrivacySpec {
  bool enabled = true;   // false: the job is not private, and every report says so
  double epsilon = 8.0;  // each site's cost of the whole job, at most
  double delta = 1e-5;
  double clip_norm = 1.0;                                     // 0: no clip, which only a job without privacy may have
  privacy::Accountant accountant = privacy::Accountant::rdp;  // by which the noise is chosen; the sites' caps count RDP
  privacy::Clipping clipping = privacy::Clipping::flat;
  privacy::NoiseKind noise = privacy::NoiseKind::discrete_gaussian;
  NoiseBy noise_by = NoiseBy::site;
  std::int64_t rounds_per_client =
      0;  // how many rounds a site may take part in: sigma is calibrated for it; 0: all of them
};

// Counts of what the model gets right on the sites' own records (tasks/site_evaluation.h).
struct SiteEvaluationSpec {
  bool enabled = false;
  double epsilon = 1.0;  // each site's cost of all evaluations of the job, at most, beside privacy.epsilon
};

struct JobSpec {
  std::string name;
  std::string task;  // registry name: "lora_text"
  std::int64_t rounds = 1;
  std::int64_t evaluate_every = 1;  // rounds between evaluations on the public test set; the last round always
  std::uint64_t seed = 0;           // of public randomness only: A_0, the head, selection in simulations
  SelectionSpec selection;
  PrivacySpec privacy;
  SiteEvaluationSpec site_evaluation;
  std::string data_set = "default";  // the site's name for the data
  std::int64_t simulated_sites = 3;  // sites that `trib simulate` and `trib demo` deal the training file out to
  std::string file_text;             // the whole document with its overrides: what travels and is stored

  // Private, but only for who trusts the aggregator: what it takes in is not noised yet.
  bool trusts_aggregator() const { return privacy.enabled && privacy.noise_by == NoiseBy::aggregator; }
  // Whether a site's own contribution has to be private: what a task's client half asks.
  bool noise_at_sites() const { return privacy.enabled && privacy.noise_by == NoiseBy::site; }
  std::int64_t max_participations() const { return privacy.rounds_per_client > 0 ? privacy.rounds_per_client : rounds; }
  // Whether this round (1-based) is one of those that are evaluated.
  bool is_evaluated(std::int64_t round) const { return round % evaluate_every == 0 || round == rounds; }
  // How many evaluations a site may take part in.
  std::int64_t max_evaluations() const {
    const std::int64_t evaluated = rounds / evaluate_every + (rounds % evaluate_every != 0 ? 1 : 0);
    return evaluated < max_participations() ? evaluated : max_participations();
  }
};

// Reads and checks a job file: [job], [selection], [privacy], [site_evaluation] and the sections of its task, which the
// registry's definition checks too. Nothing starts from a file that has an error; the error names file, line, key and
// what is accepted. Relative paths in it are relative to the file.
Result<JobSpec> read_job_file(const std::filesystem::path& path, const std::vector<std::string>& overrides);
Result<JobSpec> read_job_text(std::string_view text, std::string_view name_for_errors);

// The sections that every task shares, for a task's halves, which read theirs from the same document. Errors wait for
// ConfigReader::finish().
JobSpec read_job_sections(ConfigReader& config);

}  // namespace trib::tasks
