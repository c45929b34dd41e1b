// The seam between the federation and an algorithm. A task has two halves: one runs beside the data, one in the
// aggregator, and the federation knows nothing else of it.
#pragma once

#include <any>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "common/random.h"
#include "common/result.h"
#include "common/tensor_map.h"
#include "kernels/device.h"
#include "privacy/mechanism.h"
#include "privacy/session.h"
#include "tasks/job.h"
#include "tasks/progress.h"
#include "tasks/sum.h"

namespace trib::tasks {

struct RoundPlan {
  std::string job_id;
  std::int64_t round = 1;  // 1-based
  // The latest round before this one whose committed sum has a contribution of this site, as the aggregator's store has
  // it; 0: none. For tasks that sum over time: whatever happened to a site since then (it was not chosen, away, late,
  // or it died after its charge), nothing of what it would have sent has been counted. It is the aggregator's word, so
  // nothing private may rest on it.
  std::int64_t last_counted = 0;
};

// Things that several halves in one process share: a loaded base model, a tokenizer. One process trains one task at a
// time on a device; whoever uses a shared resource holds its lock.
class SharedResources {
 public:
  // The object under `key`, made by `make` the first time. T must be the same for all users of a key.
  template <typename T>
  Result<std::shared_ptr<T>> get(const std::string& key, const std::function<Result<std::shared_ptr<T>>()>& make) {
    std::lock_guard lock(mutex_);
    if (auto found = entries_.find(key); found != entries_.end())
      return std::any_cast<std::shared_ptr<T>>(found->second);
    auto made = make();
    if (!made) return made.error();
    entries_[key] = *made;
    return *made;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::any> entries_;
};

// Where things are at one site. From the site's own configuration, never from the job.
struct SiteContext {
  std::string site;
  std::vector<kernels::Device*> devices;                 // one, or several that share each step's records
  std::filesystem::path data_file;                       // the data set that the job names
  std::int64_t declared_records = 0;                     // its public size
  std::vector<std::filesystem::path> model_directories;  // searched for base models by SHA-256
  std::shared_ptr<SharedResources> shared;
  std::shared_ptr<Progress> progress = nullptr;  // of making the half, which may take minutes; null: nobody watches
};

// The name of what an evaluation at a site contributes, F64 of 3 (tasks/site_evaluation.h).
inline constexpr const char* evaluation_tensor = "evaluation";

// The half that runs beside the data.
class ClientTask {
 public:
  virtual ~ClientTask() = default;
  // What taking part in `plan` will cost: a function of public values alone, the same for every round of a job.
  virtual Result<privacy::Charge> charge(const RoundPlan& plan) const = 0;
  // What the aggregator's constants must be before the first round (their schema and digest came with the job).
  virtual Status set_constants(const TensorMap& constants) = 0;
  // Trains from the broadcast of this round and returns what may leave. Every record is read through `privacy`.
  virtual Result<privacy::Contribution> train(const TensorMap& broadcast, const RoundPlan& plan,
                                              privacy::PrivacySession& privacy, Progress& progress) = 0;

  // For tasks that can evaluate on the site's own records (tasks/site_evaluation.h); the others answer
  // Errc::unsupported. What one evaluation costs: a charge of its own, beside that of the round, and the same for all.
  virtual Result<privacy::Charge> evaluation_charge(const RoundPlan&) const {
    return Error{Errc::unsupported, "this task has no evaluation on the sites' own data"};
  }
  // Evaluates the model that `broadcast` describes in a session of that charge: one noised sum (release_sum), which is
  // all that leaves, as `evaluation_tensor`.
  virtual Result<privacy::Contribution> evaluate(const TensorMap& /*broadcast*/, privacy::PrivacySession&, Progress&) {
    return Error{Errc::unsupported, "this task has no evaluation on the sites' own data"};
  }
};

// Numbers about one state on the public test set.
struct Evaluation {
  std::map<std::string, double> metrics;  // "accuracy", "loss", "accuracy_average", …
};

// Where things are at the aggregator.
struct AggregatorContext {
  kernels::Device* device = nullptr;
  std::vector<std::filesystem::path> model_directories;
  std::filesystem::path data_directory;  // relative paths in the job file (public test set) are relative to this
  std::shared_ptr<SharedResources> shared;
  std::filesystem::path cache_directory = {};  // for what could be made again; empty: nothing is kept
  // Of what takes long outside evaluate(): making the half, and features of public items. Null: nobody watches.
  std::shared_ptr<Progress> progress = nullptr;
};

// The half that runs in the aggregator: sees the sum, never a contribution. State is a TensorMap, so that it can be
// stored and resumed; everything a task must remember from round to round is in it.
class ServerTask {
 public:
  virtual ~ServerTask() = default;
  virtual Result<TensorMap> initial_state() = 0;
  virtual Result<TensorMap> next_state(const TensorMap& state, const Sum& sum) = 0;
  // What every site fetches once, by digest (A_0). May be empty.
  virtual const TensorMap& constants() const = 0;
  // What a round sends down: a function of the state.
  virtual Result<TensorMap> broadcast(const TensorMap& state) const = 0;
  virtual TensorSchema broadcast_schema() const = 0;
  // With `evaluation_tensor` where the job evaluates at sites: sites that do not take part in that send zeros.
  virtual TensorSchema contribution_schema() const = 0;
  // On the public test set; empty metrics if the job names none.
  virtual Result<Evaluation> evaluate(const TensorMap& state, Progress& progress) = 0;
  // Writes the model in the form its users have (a PEFT adapter). `averaged`: the running average instead of the last
  // round.
  virtual Status export_model(const TensorMap& state, bool averaged, const std::filesystem::path& directory) = 0;
};

// What `trib model predict` and `trib model evaluate` ask of a task: a base model, perhaps an adapter, and a table.
struct PredictRequest {
  std::filesystem::path base;
  std::filesystem::path adapter;  // as export_model() wrote it; empty: the base with whatever head it has
  std::filesystem::path data;
  std::string format = "auto";  // as in a job's [data] section
  std::string text_column = "text";
  std::string label_column = "";  // empty: the table has no labels, or they do not matter
  std::int64_t max_tokens = 128;
  kernels::Device* device = nullptr;
};

// One entry a row of the table, in its order.
struct Predictions {
  std::vector<std::string> labels;      // what a column of logits stands for
  HostTensor logits;                    // (rows, labels) float32
  std::vector<std::int32_t> predicted;  // index of the largest logit
  std::vector<std::int32_t> expected;   // index of the row's own label; empty without a label column
  // "accuracy" and "loss" (mean cross-entropy) where there are labels, otherwise empty.
  std::map<std::string, double> metrics;
};

// An option of a benchmark on the command line.
struct BenchmarkOption {
  enum class Kind { text, texts, integer, file, directory };  // texts: may be given several times
  std::string name;                                           // "batch": --batch
  std::string help;
  Kind kind = Kind::text;
  std::string value = {};                              // where it is not given
  std::int64_t least = 0, most = 0;                    // of an integer
  std::vector<std::string> choices = {};               // of a text; empty: any
  std::vector<std::string> needs = {}, excludes = {};  // names of options that come before it
};

// What was given, and otherwise the options' own values.
class BenchmarkArguments {
 public:
  std::vector<kernels::Device*> devices;
  void set(const std::string& name, std::vector<std::string> values) { values_[name] = std::move(values); }
  bool has(const std::string& name) const { return !text(name).empty(); }
  // Empty, or 0, where there is no value.
  std::string text(const std::string& name) const {
    const auto found = values_.find(name);
    return found == values_.end() || found->second.empty() ? std::string() : found->second.front();
  }
  std::vector<std::string> texts(const std::string& name) const {
    const auto found = values_.find(name);
    return found == values_.end() ? std::vector<std::string>() : found->second;
  }
  std::int64_t integer(const std::string& name) const {
    const std::string value = text(name);
    return value.empty() ? 0 : std::stoll(value);
  }

 private:
  std::map<std::string, std::vector<std::string>> values_;
};

struct BenchmarkReport {
  std::vector<std::pair<std::string, std::string>> lines;  // what was measured, and how much of it
  std::string json;                                        // the same as one object
};

// `trib bench NAME`: measures this machine. Names are unique among all tasks of a build.
struct Benchmark {
  std::string name;
  std::string summary;                   // for `trib bench --help`, with an example
  std::vector<BenchmarkOption> options;  // beside --device, --threads and --json, which all have
  std::function<Result<BenchmarkReport>(const BenchmarkArguments&, Progress&)> run;
};

// Records made for `trib privacy audit`, each of which is or is not among a site's records, and what an aggregator that
// would like to know can tell from what the site sends. Not for sites with real records: canaries spoil a model.
class Canaries {
 public:
  virtual ~Canaries() = default;
  // Appends those canaries that are `included` to a site's data file, as split_data wrote it.
  virtual Status add_to(const std::filesystem::path& data_file, const std::vector<bool>& included) const = 0;
  // One score a canary, finite: the higher, the more `contribution` looks as if the canary had been trained on. All
  // arguments are what the aggregator has, the contribution as it came (multiplied by `weight`); scores of several
  // rounds add up.
  virtual Result<std::vector<double>> score(const TensorMap& constants, const TensorMap& broadcast,
                                            const TensorMap& contribution, double weight) = 0;
};

// One entry of the registry. Adding a task adds one, and no line in server/, client/ or cli/.
struct TaskDefinition {
  std::string name;
  std::string summary;  // one line for `trib --help`
  // Whether what a client contributes is a change, zero where nothing was learned: then an aggregator may bound its
  // norm and add the noise itself (privacy.noise_by).
  bool sends_changes = false;
  // Reads the task's own sections, so that a bad job file fails before anything starts.
  std::function<Status(const JobSpec&, ConfigReader&)> check;
  std::function<Result<std::unique_ptr<ClientTask>>(const JobSpec&, const SiteContext&)> make_client;
  std::function<Result<std::unique_ptr<ServerTask>>(const JobSpec&, const AggregatorContext&)> make_server;
  // What one round costs a site of `declared_records` records, from public values alone: for `trib privacy plan`, which
  // has no data. The same mechanism as ClientTask::charge gives at such a site.
  std::function<Result<privacy::Mechanism>(const JobSpec&, std::int64_t declared_records)> round_mechanism;
  // For `trib simulate` and `trib demo`: deals the job's [simulate] training file out to `sites` data files in
  // `directory` (site-1…), non-IID as the job says; returns each file and its number of records.
  struct SiteData {
    std::filesystem::path file;
    std::int64_t records = 0;
  };
  std::function<Result<std::vector<SiteData>>(const JobSpec&, const std::filesystem::path& data_directory,
                                              std::int64_t sites, RandomSource& random,
                                              const std::filesystem::path& directory)>
      split_data;
  // For `trib privacy audit`; both may be empty. Overrides ("section.key=value") that make room for `count` canaries in
  // a job, and then the canaries of that job, drawn from `random`.
  std::function<Result<std::vector<std::string>>(const JobSpec&, std::int64_t count)> canary_overrides;
  std::function<Result<std::unique_ptr<Canaries>>(const JobSpec&, const AggregatorContext&, std::int64_t count,
                                                  RandomSource& random)>
      make_canaries;
  // Overrides ("section.key=value") that fix at submission what the file leaves to the aggregator's machine, so that
  // every site can tell whether it means the same thing: the SHA-256 of a base model. Also where a file that the
  // aggregator lacks is refused. May be empty.
  std::function<Result<std::vector<std::string>>(const JobSpec&, const AggregatorContext&)> pin;
  // Applies a trained model to a table. May be empty.
  std::function<Result<Predictions>(const PredictRequest&, Progress&)> predict;
  // What `trib bench` measures of it.
  std::vector<Benchmark> benchmarks;
};

// All tasks of this build, ordered by name.
const std::vector<TaskDefinition>& registered_tasks();
Result<const TaskDefinition*> find_task(std::string_view name);  // Errc::not_found lists what there is

// The job as it is announced to sites: with the overrides of its task's `pin` in its text. Call it once, at submission.
Result<JobSpec> pin_job(const JobSpec& job, const AggregatorContext& context);

}  // namespace trib::tasks
