#include "cli/simulate.h"

#include <stdlib.h>
#include <sys/resource.h>

#include <algorithm>
#include <boost/json.hpp>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <system_error>
#include <utility>

#include "client/job_runner.h"
#include "common/files.h"
#include "kernels/device.h"
#include "privacy/ledger.h"
#include "server/coordinator.h"
#include "server/sqlite_store.h"
#include "server/state_files.h"
#include "tasks/task.h"

namespace trib::cli {
namespace {

namespace fs = std::filesystem;

// Independent streams of one seed. A site's round has the stream sites_stream + round·2^32 + the site's index.
constexpr std::uint64_t engine_stream = 1, split_stream = 2, sites_stream = std::uint64_t{1} << 56,
                        noise_stream = std::uint64_t{1} << 40;

RandomKey key_of(std::optional<std::uint64_t> seed, std::uint64_t stream) {
  return seed ? RandomKey::from_seed(*seed, stream) : RandomKey::from_system();
}

// The wall clock tells the time; the deadlines' clock stands still while anybody has work to do, since sites that take
// turns on one machine are not late.
class SimulationClock final : public Clock {
 public:
  WallTime wall_now() const override { return system_clock().wall_now(); }
  MonotonicTime now() const override { return now_; }
  void advance_to(MonotonicTime time) { now_ = std::max(now_, time); }

 private:
  MonotonicTime now_{};
};

// What the coordinator says to the sites, in order.
struct Event {
  std::string client;
  std::shared_ptr<const server::JobOffer> offer;  // an offer, or
  std::int64_t round = 0;                         // the start of a round
  std::int64_t last_counted = 0;
  std::shared_ptr<const TensorMap> broadcast;
};

class MemoryTransport final : public server::CoordinatorTransport {
 public:
  void offer_job(const std::string& client, std::shared_ptr<const server::JobOffer> offer) override {
    events_.push_back({client, std::move(offer), 0, 0, nullptr});
  }
  void start_round(const std::string& client, const std::string&, std::int64_t round, std::int64_t last_counted,
                   std::shared_ptr<const TensorMap> broadcast) override {
    events_.push_back({client, nullptr, round, last_counted, std::move(broadcast)});
  }
  // Simulated sites keep no contributions, so that there is nothing to forget.
  void close_round(const std::string&, const std::string&, std::int64_t) override {}
  void end_job(const std::string&, const std::string&, const std::string&) override {}

  std::optional<Event> take() {
    if (events_.empty()) return std::nullopt;
    Event event = std::move(events_.front());
    events_.pop_front();
    return event;
  }
  // How many sites still have to be asked to train in `round`.
  std::int64_t waiting_to_train(std::int64_t round) const {
    return std::count_if(events_.begin(), events_.end(), [&](const Event& event) { return event.round == round; });
  }

 private:
  std::deque<Event> events_;
};

// A site while it is open: its ledger, its data and its half of the task.
struct OpenSite {
  client::Site site;
  std::unique_ptr<privacy::Ledger> ledger;
  std::unique_ptr<client::JobRunner> runner;
};

class SiteProgress final : public tasks::Progress {
 public:
  SiteProgress(const SimulationOptions& options, SimulationProgress& shown) : options_(options), shown_(shown) {}
  void step(std::int64_t step, std::int64_t steps, double loss) override {
    shown_.step = step;
    shown_.steps = steps;
    shown_.loss = loss;
    if (options_.on_progress) options_.on_progress(shown_);
  }
  void fraction(std::string_view, double) override {}
  bool cancelled() const override { return options_.cancelled && options_.cancelled(); }

 private:
  const SimulationOptions& options_;
  SimulationProgress& shown_;
};

// Of work outside rounds: what is shown of the rounds stays.
class WorkProgress final : public tasks::QuietProgress {
 public:
  WorkProgress(const SimulationOptions& options, SimulationProgress& shown) : options_(options), shown_(shown) {}
  void fraction(std::string_view what, double done) override {
    if (!options_.on_progress) return;
    shown_.work = what;
    shown_.work_done = done;
    options_.on_progress(shown_);
    shown_.work.clear();
  }
  bool cancelled() const override { return options_.cancelled && options_.cancelled(); }

 private:
  const SimulationOptions& options_;
  SimulationProgress& shown_;
};

// All sites of a simulation. A few are open at a time, so that memory does not grow with their number.
class SimulatedSites {
 public:
  SimulatedSites(const SimulationOptions& options, SimulationProgress& shown, std::optional<std::uint64_t> seed,
                 client::Site common, fs::path directory, std::vector<tasks::TaskDefinition::SiteData> data)
      : options_(options),
        shown_(shown),
        seed_(seed),
        common_(std::move(common)),
        directory_(std::move(directory)),
        data_(std::move(data)) {
    for (std::size_t i = 0; i < data_.size(); ++i) indices_["site-" + std::to_string(i + 1)] = i;
  }

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < data_.size(); ++i) names.push_back("site-" + std::to_string(i + 1));
    return names;
  }

  // Every site says yes, and looks at the job when it is first asked to train: a refusal comes then, as a final
  // decline. With many sites and few of them in a round, most never have to.
  Status answer_offer(const std::string& name, std::shared_ptr<const server::JobOffer> offer,
                      server::Coordinator& coordinator) {
    if (offer_ == nullptr) {
      TRIB_ASSIGN(spec_, tasks::read_job_text(offer->job_file, options_.job_file.string()));
      offer_ = std::move(offer);
    }
    return coordinator.job_reply(name, offer_->job_id, true, "", data_[indices_.at(name)].records);
  }

  // Trains one site's part of a round and hands it in.
  Status run_round(const Event& event, std::int64_t still_waiting, server::Coordinator& coordinator) {
    const std::string& name = event.client;
    const std::int64_t round = event.round;
    const TensorMap& broadcast = *event.broadcast;
    const std::string& job = offer_->job_id;
    if (shown_.round != round) {
      shown_.round = round;
      shown_.rounds = spec_.rounds;
      shown_.sites_done = 0;
      shown_.sites_chosen = still_waiting + 1;
    }
    shown_.site = name;
    round_in_progress_ = round;
    coordinator.account_bytes(name, job, round, broadcast.byte_count(), 0);
    TRIB_ASSIGN(const Opened opened, open(name));
    if (opened.site == nullptr)
      return coordinator.round_reply(name, job, round,
                                     {false, describe(opened.refusal), opened.refusal.over_budget, true});
    if (has_constants_.insert(name).second) coordinator.account_bytes(name, job, 0, offer_->constants->byte_count(), 0);
    client::JobRunner& runner = *opened.site->runner;
    SiteProgress progress(options_, shown_);
    client::RoundOutcome outcome = runner.run_round(round, broadcast, progress, event.last_counted);
    ++shown_.sites_done;
    shown_.site.clear();
    coordinator.progress(name, job,
                         {round, shown_.step, shown_.steps, runner.epsilon_spent(), runner.epsilon_budget()});
    if (!outcome.contribution) {
      if (progress.cancelled()) return {};  // it is the simulation that ends, not this site's part
      const client::Refusal& refusal = outcome.refusal;
      return coordinator.round_reply(name, job, round, {false, describe(refusal), refusal.over_budget, refusal.final});
    }
    TRIB_TRY(coordinator.round_reply(name, job, round, {true, "", false, false}));
    client::OutboxEntry& made = *outcome.contribution;
    coordinator.account_bytes(name, job, round, 0, made.tensors.byte_count());
    if (options_.on_contribution)
      TRIB_TRY(options_.on_contribution({name, round, *offer_->constants, broadcast, made.tensors, made.weight}));
    return coordinator.contribution(name, job, round, made.weight, made.is_private, std::move(made.tensors));
  }

  void set_accuracy(double accuracy) { shown_.accuracy = accuracy; }

 private:
  struct Opened {
    OpenSite* site = nullptr;  // null: refused
    client::Refusal refusal;
  };

  // The whole federation is on this machine, so the detail that a site keeps to itself may be read here.
  static std::string describe(const client::Refusal& refusal) {
    return refusal.detail.empty() ? refusal.reason : refusal.reason + ": " + refusal.detail;
  }

  Result<Opened> open(const std::string& name) {
    const auto found = std::find_if(open_.begin(), open_.end(), [&](const auto& entry) { return entry.first == name; });
    if (found != open_.end()) {
      open_.splice(open_.begin(), open_, found);
      return Opened{open_.front().second.get(), {}};
    }
    const std::size_t index = indices_.at(name);
    auto site = std::make_unique<OpenSite>();
    const double asked = spec_.privacy.epsilon + (spec_.site_evaluation.enabled ? spec_.site_evaluation.epsilon : 0.0);
    const privacy::Budget budget{spec_.data_set, options_.site_epsilon.value_or(asked), spec_.privacy.delta};
    const fs::path home = directory_ / name;
    TRIB_TRY(make_directories(home));
    TRIB_ASSIGN(site->ledger, privacy::Ledger::open(home / "ledger.jsonl", {name, signer_}, {budget}, *common_.clock));
    site->site = common_;
    site->site.name = name;
    site->site.ledger = site->ledger.get();
    site->site.data_sets[spec_.data_set] = {data_[index].file, data_[index].records, budget, !spec_.noise_at_sites(),
                                            true};
    site->site.random_key = [this, index] {
      return key_of(seed_, sites_stream + (static_cast<std::uint64_t>(round_in_progress_) << 32) + index);
    };
    const bool has_constants = !offer_->constants->empty();
    client::OfferedJob job{offer_->job_id,
                           spec_,
                           offer_->broadcast_schema,
                           offer_->contribution_schema,
                           offer_->constants->schema(),
                           has_constants ? std::optional(offer_->constants_sha256) : std::nullopt};
    auto acceptance = client::JobRunner::accept(std::move(job), site->site);
    if (acceptance.runner == nullptr) return Opened{nullptr, std::move(acceptance.refusal)};
    site->runner = std::move(acceptance.runner);
    if (has_constants) TRIB_TRY(site->runner->set_constants(*offer_->constants));
    // Rounds ask sites in the same order, so the one that was used last is needed again last: it goes first. Were it
    // the one that was used longest ago, a federation of one more than these would open every site in every round.
    constexpr std::size_t most_open = 128;
    if (open_.size() == most_open) open_.pop_front();
    open_.emplace_front(name, std::move(site));
    return Opened{open_.front().second.get(), {}};
  }

  const SimulationOptions& options_;
  SimulationProgress& shown_;
  std::optional<std::uint64_t> seed_;
  client::Site common_;
  fs::path directory_;
  std::shared_ptr<const Signer> signer_ = throwaway_signer();  // of all ledgers here: they prove nothing
  std::vector<tasks::TaskDefinition::SiteData> data_;
  std::map<std::string, std::size_t> indices_;
  std::shared_ptr<const server::JobOffer> offer_;
  tasks::JobSpec spec_;                  // of the offer
  std::set<std::string> has_constants_;  // sites that have fetched them, and would keep them
  std::list<std::pair<std::string, std::unique_ptr<OpenSite>>> open_;  // the last used first
  std::int64_t round_in_progress_ = 0;
};

// A directory of the user's, or a temporary one that goes away.
class WorkDirectory {
 public:
  static Result<WorkDirectory> create(const fs::path& wanted) {
    if (wanted.empty()) {
      std::string path = (fs::temp_directory_path() / "tributary-simulation-XXXXXX").string();
      if (::mkdtemp(path.data()) == nullptr) return error_from_errno(errno, "creating a temporary directory");
      return WorkDirectory(path, true);
    }
    std::error_code error;
    if (fs::exists(wanted, error) && !fs::is_empty(wanted, error))
      return Error{Errc::already_exists,
                   wanted.string() + " is not an empty directory; name a new one: its ledgers would refuse the job"};
    TRIB_TRY(make_directories(wanted));
    return WorkDirectory(wanted, false);
  }
  WorkDirectory(WorkDirectory&& other) noexcept
      : path_(std::move(other.path_)), is_temporary_(std::exchange(other.is_temporary_, false)) {}
  WorkDirectory& operator=(WorkDirectory&&) = delete;
  ~WorkDirectory() {
    std::error_code error;
    if (is_temporary_) fs::remove_all(path_, error);
  }
  const fs::path& path() const { return path_; }

 private:
  WorkDirectory(fs::path path, bool is_temporary) : path_(std::move(path)), is_temporary_(is_temporary) {}
  fs::path path_;
  bool is_temporary_;
};

// The job as it is simulated: with the seed, and waiting for all simulated sites.
Result<tasks::JobSpec> read_simulated_job(const SimulationOptions& options) {
  std::vector<std::string> overrides = options.overrides;
  if (options.seed) overrides.push_back("job.seed=" + std::to_string(*options.seed));
  TRIB_ASSIGN(const tasks::JobSpec spec, tasks::read_job_file(options.job_file, overrides));
  const std::int64_t clients = options.clients > 0 ? options.clients : spec.simulated_sites;
  if (clients < spec.selection.minimum_clients)
    return Error{Errc::invalid_argument, "the job needs at least selection.minimum_clients = " +
                                             std::to_string(spec.selection.minimum_clients) + " sites, and " +
                                             std::to_string(clients) + " are simulated"};
  overrides.push_back("simulate.sites=" + std::to_string(clients));
  overrides.push_back("selection.expected_clients=" + std::to_string(clients));
  // Sites that refuse are not waited for; the clock stands still until nothing else is left to do.
  overrides.push_back("selection.start_deadline=\"1s\"");
  return tasks::read_job_file(options.job_file, overrides);
}

std::optional<double> last_accuracy(const std::string& report) {
  const boost::json::value document = boost::json::parse(report);
  const auto* result = document.as_object().if_contains("result");
  const auto* accuracy = result != nullptr ? result->as_object().if_contains("accuracy") : nullptr;
  return accuracy != nullptr && accuracy->is_number() ? std::optional(accuracy->to_number<double>()) : std::nullopt;
}

// Until the job has ended: what the sites have been told first, then the aggregator's own work, then time.
Status run_to_the_end(const SimulationOptions& options, const std::string& job, server::Coordinator& coordinator,
                      server::InlineWorkQueue& work_queue, MemoryTransport& transport, SimulatedSites& sites,
                      SimulationClock& clock) {
  while (coordinator.has_running_jobs()) {
    if (options.cancelled && options.cancelled()) return coordinator.cancel_job(job, "interrupted");
    if (auto event = transport.take()) {
      TRIB_TRY(event->offer != nullptr
                   ? sites.answer_offer(event->client, std::move(event->offer), coordinator)
                   : sites.run_round(*event, transport.waiting_to_train(event->round), coordinator));
      continue;
    }
    if (work_queue.run_next()) continue;
    const auto deadline = coordinator.next_deadline();
    if (!deadline) return Error{Errc::internal, "the simulation waits for something that cannot come"};
    clock.advance_to(*deadline);
    coordinator.tick();
  }
  return {};
}

}  // namespace

Result<std::string> run_simulation(const SimulationOptions& options) {
  if (options.threads > 0) ::setenv("TRIBUTARY_THREADS", std::to_string(options.threads).c_str(), 1);
  TRIB_ASSIGN(const tasks::JobSpec spec, read_simulated_job(options));
  const auto seed = options.seed ? options.seed : (spec.seed != 0 ? std::optional(spec.seed) : std::nullopt);
  TRIB_ASSIGN(const tasks::TaskDefinition* task, tasks::find_task(spec.task));
  TRIB_ASSIGN(const std::vector<kernels::Device*> devices, kernels::open_devices(options.device));
  kernels::Device* const device = devices.front();
  TRIB_ASSIGN(const WorkDirectory work, WorkDirectory::create(options.work_directory));
  const fs::path data_directory = fs::absolute(options.job_file).parent_path();

  ChaCha20Random split_random(key_of(seed, split_stream));
  TRIB_ASSIGN(auto data,
              task->split_data(spec, data_directory, spec.simulated_sites, split_random, work.path() / "data"));
  const auto shared = std::make_shared<tasks::SharedResources>();
  SimulationProgress shown;
  const auto work_progress = std::make_shared<WorkProgress>(options, shown);
  const tasks::AggregatorContext aggregator{.device = device,
                                            .model_directories = options.model_directories,
                                            .data_directory = data_directory,
                                            .shared = shared,
                                            .cache_directory = work.path() / "aggregator" / "features",
                                            .progress = work_progress};
  if (options.on_data) TRIB_TRY(options.on_data(spec, aggregator, data));

  SimulationClock clock;
  ChaCha20Random engine_random(key_of(seed, engine_stream));
  client::Site common;
  common.devices = devices;
  common.model_directories = options.model_directories;
  common.shared = shared;
  common.progress = work_progress;
  common.clock = &clock;
  common.find_task = &tasks::find_task;

  TRIB_TRY(make_directories(work.path() / "aggregator"));
  TRIB_ASSIGN(const auto store, server::SqliteStore::open(work.path() / "aggregator" / "store.db"));
  TRIB_ASSIGN(const auto state_files, server::DirectoryStateFiles::open(work.path() / "aggregator" / "states"));
  MemoryTransport transport;
  server::InlineWorkQueue work_queue;
  server::CoordinatorOptions coordinator_options;
  coordinator_options.noise_seeded = seed.has_value();
  const double cap = options.site_epsilon.value_or(spec.privacy.epsilon);
  TRIB_ASSIGN(const auto ledger,
              privacy::Ledger::open(work.path() / "aggregator" / "ledger.jsonl", {"aggregator", throwaway_signer()},
                                    {{spec.data_set, cap, spec.privacy.delta}}, clock));
  coordinator_options.ledger = ledger.get();
  coordinator_options.noise_key = [seed, round = std::uint64_t{0}]() mutable {
    return key_of(seed, noise_stream + round++);
  };
  server::Coordinator coordinator(*store, *state_files, aggregator, clock, engine_random, transport, work_queue,
                                  coordinator_options);
  TRIB_TRY(coordinator.resume());
  TRIB_ASSIGN(const std::string job, coordinator.submit_job(spec.file_text, options.job_file.string()));
  SimulatedSites sites(options, shown, seed, std::move(common), work.path() / "sites", std::move(data));
  TRIB_TRY(coordinator.subscribe(job, [&sites](const std::string& report, bool) {
    if (const auto accuracy = last_accuracy(report)) sites.set_accuracy(*accuracy);
  }));
  for (const std::string& name : sites.names()) coordinator.client_connected(name);
  TRIB_TRY(run_to_the_end(options, job, coordinator, work_queue, transport, sites, clock));

  TRIB_ASSIGN(const std::string report, coordinator.job_json(job));
  boost::json::object document = boost::json::parse(report).as_object();
  if (!options.export_directory.empty() && document["state"] == "finished") {
    Status exported;
    coordinator.export_model(job, true, options.export_directory, [&](Status status) { exported = std::move(status); });
    while (work_queue.run_next()) {
    }
    TRIB_TRY(exported);
    document["exported"] = options.export_directory.string();
  }
  document["simulated"] = true;
  struct rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
  document["peak_memory_bytes"] = static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
  return boost::json::serialize(document);
}

}  // namespace trib::cli
