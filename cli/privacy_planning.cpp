// `trib privacy {plan, epsilon, sigma}`: what a job or a schedule costs, from public values alone.
#include <spdlog/fmt/fmt.h>

#include <boost/json.hpp>
#include <charconv>
#include <cmath>
#include <functional>
#include <iostream>

#include "cli/commands.h"
#include "cli/privacy_figures.h"
#include "cli/terminal.h"
#include "privacy/accountant.h"
#include "privacy/ledger.h"
#include "privacy/plan.h"
#include "tasks/task.h"

namespace trib::cli {
namespace {

namespace json = boost::json;
using privacy::PrivacyLoss;
using privacy::RdpCurve;
using privacy::TightEpsilon;

constexpr std::int64_t kMostRounds = 1'000'000;  // that are looked at
constexpr std::int64_t kMostRows = 24;           // rounds of which the tight figure is computed

// Epsilon in as many digits as one reads: "3.142", "0.00334".
std::string format_epsilon(double epsilon) {
  if (std::isinf(epsilon)) return "infinite";
  return epsilon != 0.0 && epsilon < 0.1 ? fmt::format("{:.3g}", epsilon) : format_fixed(epsilon, 3);
}

template <typename... Arguments>
Error refuse(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  return {Errc::invalid_argument, fmt::format(format, std::forward<Arguments>(arguments)...)};
}

Status check_accountant(const std::string& name) {
  if (name == "pld" || name == "rdp") return {};
  return refuse("--accountant is '{}': give pld (tight) or rdp (what a site's cap counts by)", name);
}

Status check_delta(double delta) {
  if (delta > 0.0 && delta < 1.0) return {};
  return refuse("--delta is {}: give a number above 0 and below 1, such as 1e-5, and below one over the records",
                delta);
}

// ---- epsilon

struct EpsilonOptions {
  std::string phases, accountant = "pld";
  double delta = 1e-5;
  bool json = false;
};

struct Phase {
  double sample_rate = 0.0, noise_multiplier = 0.0;
  std::int64_t steps = 0;
};

template <typename Number>
bool read_number(std::string_view text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

// "Q:SIGMA:STEPS[,Q:SIGMA:STEPS…]".
Result<std::vector<Phase>> read_phases(std::string_view text) {
  std::vector<Phase> phases;
  while (true) {
    const std::string_view one = text.substr(0, text.find(','));
    const std::size_t first = one.find(':'), second = first == one.npos ? one.npos : one.find(':', first + 1);
    Phase phase;
    double steps = 0.0;  // "1e5" is a number of steps, too
    if (second == one.npos || !read_number(one.substr(0, first), phase.sample_rate) ||
        !read_number(one.substr(first + 1, second - first - 1), phase.noise_multiplier) ||
        !read_number(one.substr(second + 1), steps)) {
      return refuse("--phases: '{}' is not Q:SIGMA:STEPS, three numbers such as 0.01:1.1:1000", one);
    }
    if (!(phase.sample_rate > 0.0 && phase.sample_rate <= 1.0)) {
      return refuse("--phases: the sample rate of '{}' is {}: give the batch over the records, above 0 and at most 1",
                    one, phase.sample_rate);
    }
    if (!(phase.noise_multiplier > 0.0 && std::isfinite(phase.noise_multiplier))) {
      return refuse("--phases: the noise multiplier of '{}' is {}: give the noise over the clip norm, above 0", one,
                    phase.noise_multiplier);
    }
    if (!(steps >= 1.0 && steps <= 1e12 && steps == std::floor(steps))) {
      return refuse("--phases: the steps of '{}' are {}: give a whole number, at least 1", one, steps);
    }
    phase.steps = static_cast<std::int64_t>(steps);
    phases.push_back(phase);
    if (one.size() == text.size()) return phases;
    text.remove_prefix(one.size() + 1);
  }
}

Status run_epsilon(const EpsilonOptions& options) {
  TRIB_TRY(check_accountant(options.accountant));
  TRIB_TRY(check_delta(options.delta));
  TRIB_ASSIGN(const std::vector<Phase> phases, read_phases(options.phases));
  RdpCurve curve;
  PrivacyLoss loss;
  for (const Phase& phase : phases) {
    curve.add(phase.sample_rate, phase.noise_multiplier, phase.steps);
    loss.add(phase.sample_rate, phase.noise_multiplier, phase.steps);
  }
  const double rdp = curve.epsilon(options.delta);
  const TightEpsilon tight = loss.epsilon(options.delta);
  const double epsilon = options.accountant == "rdp" ? rdp : tight.epsilon;
  if (options.json) {
    json::array list;
    for (const Phase& phase : phases) {
      list.push_back(json::object{
          {"sample_rate", phase.sample_rate}, {"noise_multiplier", phase.noise_multiplier}, {"steps", phase.steps}});
    }
    json::object out{{"epsilon", number_or_null(epsilon)},
                     {"delta", options.delta},
                     {"accountant", options.accountant},
                     {"unit", "one record, add or remove"},
                     {"epsilon_pld", number_or_null(tight.epsilon)},
                     {"pld_method", to_string(tight.method)},
                     {"pld_is_fallback", tight.is_fallback},
                     {"epsilon_rdp", number_or_null(rdp)},
                     {"rdp_order", curve.best_order(options.delta)},
                     {"phases", std::move(list)}};
    if (tight.is_fallback) out["pld_fallback_why"] = tight.why;
    std::cout << json::serialize(out) << "\n";
    return {};
  }
  Table table({{"sample rate", Align::right}, {"noise multiplier", Align::right}, {"steps", Align::right}});
  for (const Phase& phase : phases) {
    table.add_row(
        {fmt::format("{}", phase.sample_rate), fmt::format("{}", phase.noise_multiplier), std::to_string(phase.steps)});
  }
  std::cout << bold("epsilon " + format_epsilon(epsilon)) << " at delta " << options.delta << " (" << options.accountant
            << "; one record, added or removed)\n\n"
            << table.to_string("  ") << "\n"
            << "  tight (pld)  " << format_epsilon(tight.epsilon) << "  for a schedule that is fixed in advance\n"
            << "  rdp          " << format_epsilon(rdp) << "  as a site's cap counts\n";
  if (tight.is_fallback) std::cout << "\n  The tight figure is a looser bound here: " << tight.why << ".\n";
  return {};
}

// ---- sigma

struct SigmaOptions {
  double epsilon = 0.0, delta = 0.0, sample_rate = 0.0;
  std::int64_t steps = 0;
  std::string accountant = "pld";
  bool json = false;
};

Status run_sigma(const SigmaOptions& options) {
  TRIB_TRY(check_accountant(options.accountant));
  TRIB_TRY(check_delta(options.delta));
  if (!(options.epsilon > 0.0 && std::isfinite(options.epsilon))) {
    return refuse("--epsilon is {}: give the loss that may be spent, a number above 0 such as 6", options.epsilon);
  }
  if (!(options.sample_rate > 0.0 && options.sample_rate <= 1.0)) {
    return refuse("--sample-rate is {}: give the batch over the records, above 0 and at most 1", options.sample_rate);
  }
  if (options.steps < 1) return refuse("--steps is {}: give a whole number, at least 1", options.steps);
  const auto calibrate =
      options.accountant == "pld" ? privacy::calibrate_tight_noise_multiplier : privacy::calibrate_noise_multiplier;
  TRIB_ASSIGN(const double sigma, calibrate(options.epsilon, options.delta, options.sample_rate, options.steps));
  const double rdp = RdpCurve().add(options.sample_rate, sigma, options.steps).epsilon(options.delta);
  const TightEpsilon tight = PrivacyLoss().add(options.sample_rate, sigma, options.steps).epsilon(options.delta);
  if (options.json) {
    json::object out{{"noise_multiplier", sigma},
                     {"accountant", options.accountant},
                     {"target_epsilon", options.epsilon},
                     {"delta", options.delta},
                     {"sample_rate", options.sample_rate},
                     {"steps", options.steps},
                     {"epsilon_pld", number_or_null(tight.epsilon)},
                     {"epsilon_rdp", number_or_null(rdp)}};
    std::cout << json::serialize(out) << "\n";
    return {};
  }
  std::cout << bold(fmt::format("noise multiplier {:.5f}", sigma)) << " for epsilon " << options.epsilon << " at delta "
            << options.delta << " (" << options.accountant << ")\n\n"
            << "  " << options.steps << " steps at sample rate " << options.sample_rate << " with it cost\n"
            << "  tight (pld)  " << format_epsilon(tight.epsilon) << "\n"
            << "  rdp          " << format_epsilon(rdp) << "  as a site's cap counts\n";
  return {};
}

// ---- plan

struct PlanOptions {
  std::string job, spent;
  std::vector<std::string> overrides;
  std::int64_t records = 0;
  double cap = 0.0;  // 0: the job's epsilon
  bool json = false;
};

// What was spent on a data set, and what rounds of the job add to it.
class Budget {
 public:
  Budget(const privacy::Mechanism& round, double delta) : round_(round), delta_(delta) {}

  Status read(const std::string& path, const std::string& data_set) {
    TRIB_ASSIGN(const auto entries, privacy::read_ledger(ledger_path(path)));
    for (const auto& entry : entries) {
      if (!entry.spends() || entry.charge.data_set != data_set) continue;
      curve_.add(entry.charge.mechanism);
      loss_.add(entry.charge.mechanism);
    }
    return {};
  }
  double rdp(std::int64_t rounds) const { return RdpCurve(curve_).add(all(rounds)).epsilon(delta_); }
  TightEpsilon tight(std::int64_t rounds) const { return PrivacyLoss(loss_).add(all(rounds)).epsilon(delta_); }

 private:
  privacy::Mechanism all(std::int64_t rounds) const {
    privacy::Mechanism mechanism = round_;
    mechanism.steps *= rounds;
    return mechanism;
  }
  privacy::Mechanism round_;
  double delta_;
  RdpCurve curve_;
  PrivacyLoss loss_;
};

// The most rounds, up to kMostRounds, that `fits` still holds for.
std::int64_t most_rounds(const std::function<bool(std::int64_t)>& fits) {
  std::int64_t fitting = 0, too_many = 1;
  while (too_many < kMostRounds && fits(too_many)) fitting = too_many, too_many *= 2;
  too_many = std::min(too_many, kMostRounds + 1);
  while (too_many - fitting > 1) {
    const std::int64_t middle = fitting + (too_many - fitting) / 2;
    (fits(middle) ? fitting : too_many) = middle;
  }
  return fitting;
}

struct PlanRow {
  std::int64_t rounds = 0;
  double rdp = 0.0, tight = 0.0;
};

// The rows as a plot of 11 lines by 80 columns: R where only RDP's curve is, * the tight one's, - the cap.
std::string plot(const std::vector<PlanRow>& rows, double cap) {
  constexpr int kHeight = 11, kWidth = 64;
  double top = cap * 1.05;
  for (const PlanRow& row : rows) top = std::max({top, row.tight, std::isfinite(row.rdp) ? row.rdp : 0.0});
  const auto line_of = [&](double epsilon) {
    return std::clamp(static_cast<int>(std::lround(epsilon / top * (kHeight - 1))), 0, kHeight - 1);
  };
  std::vector<std::string> lines(kHeight, std::string(kWidth, ' '));
  lines[static_cast<std::size_t>(line_of(cap))] = std::string(kWidth, '-');
  const double first = static_cast<double>(rows.front().rounds), last = static_cast<double>(rows.back().rounds);
  std::size_t right = 0;
  for (int column = 0; column < kWidth; ++column) {
    const double at = first + (last - first) * column / (kWidth - 1);
    while (right + 1 < rows.size() && static_cast<double>(rows[right].rounds) < at) ++right;
    const PlanRow &b = rows[right], &a = rows[right == 0 ? 0 : right - 1];
    const double span = static_cast<double>(b.rounds - a.rounds);
    const double share = span > 0.0 ? (at - static_cast<double>(a.rounds)) / span : 1.0;
    const auto put = [&](double epsilon, char mark) {
      lines[static_cast<std::size_t>(line_of(epsilon))][static_cast<std::size_t>(column)] = mark;
    };
    put(a.rdp + share * (b.rdp - a.rdp), 'R');
    put(a.tight + share * (b.tight - a.tight), '*');
  }
  std::string text = "  epsilon\n";
  for (int line = kHeight - 1; line >= 0; --line) {
    const bool is_labelled = line % 2 == 0;
    text += fmt::format("  {:>8} |{}\n", is_labelled ? format_epsilon(top * line / (kHeight - 1)) : "",
                        lines[static_cast<std::size_t>(line)]);
  }
  const std::string from = std::to_string(rows.front().rounds), to = std::to_string(rows.back().rounds);
  text += "           +" + std::string(kWidth, '-') + "\n";
  text += fmt::format("            {}{:>{}}\n", from, to, kWidth - static_cast<int>(from.size()));
  return text + "            rounds      * tight (pld)   R rdp   - cap\n";
}

// What another choice would do at the same epsilon, and at the noise that the job has now.
struct Alternative {
  std::string change;
  double sample_rate = 0.0;
  std::int64_t steps = 0;
  double noise_multiplier = 0.0;
  double relative_noise = 0.0;  // of the mean gradient of a step, over the job's
  double epsilon_at_same_noise = 0.0;
};

Result<Alternative> alternative(const tasks::JobSpec& spec, const privacy::Mechanism& round, std::string change,
                                double sample_rate, std::int64_t steps) {
  const bool is_pld = spec.privacy.accountant == privacy::Accountant::pld;
  const auto calibrate = is_pld ? privacy::calibrate_tight_noise_multiplier : privacy::calibrate_noise_multiplier;
  Alternative result{std::move(change), sample_rate, steps, 0.0, 0.0, 0.0};
  TRIB_ASSIGN(result.noise_multiplier, calibrate(spec.privacy.epsilon, spec.privacy.delta, sample_rate, steps));
  // Noise of the sum is noise_multiplier · clip norm; the mean divides by the expected batch.
  result.relative_noise = result.noise_multiplier / round.noise_multiplier * round.sample_rate / sample_rate;
  result.epsilon_at_same_noise =
      is_pld ? PrivacyLoss().add(sample_rate, round.noise_multiplier, steps).epsilon(spec.privacy.delta).epsilon
             : RdpCurve().add(sample_rate, round.noise_multiplier, steps).epsilon(spec.privacy.delta);
  return result;
}

Status run_plan(const PlanOptions& options) {
  TRIB_ASSIGN(const tasks::JobSpec spec, tasks::read_job_file(options.job, options.overrides));
  TRIB_ASSIGN(const tasks::TaskDefinition* task, tasks::find_task(spec.task));
  if (!spec.privacy.enabled) {
    return refuse("{} is not private (privacy.enabled = false): there is nothing to plan", options.job);
  }
  if (!(options.cap >= 0.0 && std::isfinite(options.cap))) {
    return refuse("--cap is {}: give the site's epsilon cap, a number above 0 such as 8", options.cap);
  }
  const double cap = options.cap > 0.0 ? options.cap : spec.privacy.epsilon;
  if (spec.trusts_aggregator()) {
    return refuse(
        "{} has its noise added by the aggregator (privacy.noise_by), whose own ledger is charged: it costs each "
        "person epsilon privacy.epsilon, and a site nothing that its ledger could hold",
        options.job);
  }
  TRIB_ASSIGN(const privacy::Mechanism round, task->round_mechanism(spec, options.records));
  const std::int64_t rounds = spec.max_participations();
  Budget budget(round, spec.privacy.delta);
  if (!options.spent.empty()) TRIB_TRY(budget.read(options.spent, spec.data_set));

  std::vector<PlanRow> rows;
  for (std::int64_t row = 0, of = std::min(rounds, kMostRows); row <= of; ++row) {
    const std::int64_t count = rounds * row / of;
    rows.push_back({count, budget.rdp(count), budget.tight(count).epsilon});
  }
  const std::int64_t bought_rdp = most_rounds([&](std::int64_t count) { return budget.rdp(count) <= cap; });
  const std::int64_t bought_tight = most_rounds([&](std::int64_t count) { return budget.tight(count).epsilon <= cap; });
  std::vector<Alternative> alternatives;
  TRIB_ASSIGN(Alternative doubled, alternative(spec, round, "double the batch", std::min(1.0, 2.0 * round.sample_rate),
                                               round.steps * rounds));
  TRIB_ASSIGN(Alternative halved, alternative(spec, round, "half the rounds", round.sample_rate,
                                              round.steps * std::max<std::int64_t>(1, rounds / 2)));
  alternatives = {doubled, halved};
  const std::string accountant(privacy::accountant_names[static_cast<std::size_t>(spec.privacy.accountant)]);

  if (options.json) {
    json::array after, table, others;
    for (std::int64_t r = 1; r <= rounds; ++r) after.push_back(number_or_null(budget.rdp(r)));
    for (const PlanRow& row : rows) {
      table.push_back(json::object{{"rounds", row.rounds},
                                   {"epsilon_rdp", number_or_null(row.rdp)},
                                   {"epsilon_pld", number_or_null(row.tight)}});
    }
    for (const Alternative& other : alternatives) {
      others.push_back(json::object{{"change", other.change},
                                    {"sample_rate", other.sample_rate},
                                    {"steps", other.steps},
                                    {"noise_multiplier", other.noise_multiplier},
                                    {"relative_noise_of_mean", other.relative_noise},
                                    {"epsilon_at_same_noise", number_or_null(other.epsilon_at_same_noise)}});
    }
    json::object out{{"job", spec.name},
                     {"records", options.records},
                     {"unit", "one record, add or remove"},
                     {"accountant", accountant},
                     {"target_epsilon", spec.privacy.epsilon},
                     {"delta", spec.privacy.delta},
                     {"sample_rate", round.sample_rate},
                     {"noise_multiplier", round.noise_multiplier},
                     {"clip_norm", round.clip_norm},
                     {"steps_per_round", round.steps},
                     {"rounds", rounds},
                     {"cap", cap},
                     {"cap_needed", number_or_null(rows.back().rdp)},
                     {"rounds_bought_rdp", bought_rdp},
                     {"rounds_bought_pld", bought_tight},
                     {"epsilon_after_round", std::move(after)},
                     {"after", std::move(table)},
                     {"alternatives", std::move(others)}};
    std::cout << json::serialize(out) << "\n";
    return {};
  }

  std::cout << bold(spec.name) << " at a site that declares " << options.records << " records\n\n"
            << "  unit              one record, added or removed\n"
            << "  target            epsilon " << format_fixed(spec.privacy.epsilon, 2) << " at delta "
            << spec.privacy.delta << " over " << rounds << " rounds of " << round.steps << " steps\n"
            << "  sample rate       " << round.sample_rate << "\n"
            << "  noise multiplier  " << format_fixed(round.noise_multiplier, 4) << " (clip norm " << round.clip_norm
            << "), by " << accountant << "\n"
            << "  cap needed        " << format_epsilon(rows.back().rdp) << ": a site's cap counts by rdp\n"
            << "  a cap of " << format_fixed(cap, 2) << " buys  " << bought_rdp
            << " rounds (were it tight: " << bought_tight << ")\n\n";
  Table table({{"rounds", Align::right}, {"tight", Align::right}, {"rdp", Align::right}, {"rdp of the cap"}});
  const std::size_t every = (rows.size() + 11) / 12;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (i % every != 0 && i + 1 != rows.size()) continue;
    table.add_row({rows[i].rounds == 0 ? "now" : std::to_string(rows[i].rounds), format_epsilon(rows[i].tight),
                   format_epsilon(rows[i].rdp), bar(rows[i].rdp / cap, 40)});
  }
  std::cout << table.to_string("  ") << "\n" << plot(rows, cap) << "\n";
  Table others({{"instead"},
                {"noise multiplier", Align::right},
                {"noise of mean", Align::right},
                {"epsilon, same noise", Align::right}});
  others.add_row({"as it is", format_fixed(round.noise_multiplier, 4), "1.00x", format_epsilon(spec.privacy.epsilon)});
  for (const Alternative& other : alternatives) {
    others.add_row({other.change, format_fixed(other.noise_multiplier, 4), format_fixed(other.relative_noise, 2) + "x",
                    format_epsilon(other.epsilon_at_same_noise)});
  }
  std::cout << others.to_string("  ");
  return {};
}

}  // namespace

void add_privacy_planning_commands(CLI::App& privacy, Exit& exit) {
  auto plan = std::make_shared<PlanOptions>();
  CLI::App* plan_command =
      privacy.add_subcommand("plan",
                             "What a job would cost a site: noise, epsilon after each round, what a cap buys\n"
                             "Example: trib privacy plan experiments/fedsvd/quick.toml --records 5000");
  plan_command->add_option("job", plan->job, "Job file")->required()->type_name("FILE");
  plan_command->add_option("--records", plan->records, "The site's declared number of records")
      ->required()
      ->check(CLI::Validator(
          [](const std::string& text) {
            std::int64_t records = 0;
            return CLI::detail::lexical_cast(text, records) && records >= 1
                       ? std::string()
                       : "must be a whole number, at least 1, and not " + text;
          },
          ""));
  plan_command->add_option("--cap", plan->cap, "The site's epsilon cap (default: the job's epsilon)")
      ->type_name("EPSILON");
  plan_command->add_option("--spent", plan->spent, "A site's directory or ledger: begin with what it has spent")
      ->type_name("PATH");
  plan_command->add_option("--set", plan->overrides, "Override a key of the job file")->type_name("SECTION.KEY=VALUE");
  plan_command->add_flag("--json", plan->json, "One JSON object on standard output");
  plan_command->callback([plan, &exit] { exit.report(run_plan(*plan)); });

  auto epsilon = std::make_shared<EpsilonOptions>();
  CLI::App* epsilon_command =
      privacy.add_subcommand("epsilon",
                             "Epsilon of a schedule of steps with noise\n"
                             "Example: trib privacy epsilon --phases 0.01:1.1:1000,0.02:0.9:50 --delta 1e-5");
  epsilon_command->add_option("--phases", epsilon->phases, "Sample rate, noise multiplier and steps of each phase")
      ->required()
      ->type_name("Q:SIGMA:STEPS[,...]");
  epsilon_command->add_option("--delta", epsilon->delta, "Delta at which epsilon is stated")->required();
  epsilon_command->add_option("--accountant", epsilon->accountant, "pld (tight) or rdp (what a cap counts by)")
      ->capture_default_str();
  epsilon_command->add_flag("--json", epsilon->json, "One JSON object on standard output");
  epsilon_command->callback([epsilon, &exit] { exit.report(run_epsilon(*epsilon)); });

  auto sigma = std::make_shared<SigmaOptions>();
  CLI::App* sigma_command =
      privacy.add_subcommand("sigma",
                             "The least noise that keeps a number of steps within an epsilon\n"
                             "Example: trib privacy sigma --epsilon 3 --delta 1e-5 --sample-rate 0.01 --steps 1000");
  sigma_command->add_option("--epsilon", sigma->epsilon, "What the steps may cost, together")->required();
  sigma_command->add_option("--delta", sigma->delta, "Delta at which epsilon is stated")->required();
  sigma_command->add_option("--sample-rate", sigma->sample_rate, "Expected batch over the records")->required();
  sigma_command->add_option("--steps", sigma->steps, "How many steps")->required();
  sigma_command->add_option("--accountant", sigma->accountant, "pld (tight) or rdp (what a cap counts by)")
      ->capture_default_str();
  sigma_command->add_flag("--json", sigma->json, "One JSON object on standard output");
  sigma_command->callback([sigma, &exit] { exit.report(run_sigma(*sigma)); });
}

}  // namespace trib::cli
