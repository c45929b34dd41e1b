#include "server/coordinator.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cctype>
#include <vector>

#include "common/log.h"
#include "server/rounds/job.h"

namespace trib::server {
namespace {

// A job's id is part of file names at the sites: lower-case letters, digits and hyphens.
std::string make_job_id(std::string_view name, RandomSource& random) {
  constexpr std::size_t longest_name = 40;
  std::string id;
  for (const char character : name.substr(0, longest_name)) {
    const auto byte = static_cast<unsigned char>(character);
    id += byte < 0x80 && std::isalnum(byte) ? static_cast<char>(std::tolower(byte)) : '-';
  }
  std::array<std::uint8_t, 4> suffix{};
  random.fill(suffix);
  return id + "-" + to_hex(suffix);
}

}  // namespace

struct Coordinator::Impl {
  struct Subscription {
    Job* job = nullptr;
    Report report;
    MonotonicTime sent{};
    bool is_behind = false;  // something has changed since
  };

  Engine engine;
  std::vector<std::shared_ptr<Job>> jobs;  // oldest first
  std::map<std::uint64_t, Subscription> subscriptions;
  std::uint64_t next_subscription = 1;
  MonotonicTime seen_noted{};

  Result<Job*> find(std::string_view id) const {
    for (const auto& job : jobs)
      if (job->id() == id) return job.get();
    std::string known;
    for (const auto& job : jobs) known += (known.empty() ? "; there are " : ", ") + job->id();
    return Error{Errc::not_found,
                 "there is no job '" + std::string(id) + "'" + (known.empty() ? "; there are none yet" : known)};
  }

  // Runs `call` on every job. A job may end, but none comes or goes meanwhile.
  template <typename Call>
  void each(const Call& call) {
    for (const auto& job : jobs) call(*job);
  }

  void job_changed(Job& job) {
    const Job::Change change = job.take_change();
    if (!change.any) return;
    std::vector<std::uint64_t> listening;
    for (auto& [id, subscription] : subscriptions)
      if (subscription.job == &job) listening.push_back(id);
    for (const std::uint64_t id : listening) {
      subscriptions.at(id).is_behind = true;
      catch_up(id, change.important);
    }
  }

  // What the store refuses is no reason to turn a site away; it is written again within seen_interval.
  void note_seen(const std::vector<SiteSeen>& seen) {
    for (const SiteSeen& site : seen) engine.last_seen[site.site] = site.time;
    if (seen.empty()) return;
    if (const Status noted = engine.store.note_seen(seen); !noted) spdlog::warn("{}", noted.error().message);
  }
  void note_connected() {
    if (engine.clock.now() - seen_noted < engine.options.seen_interval) return;
    seen_noted = engine.clock.now();
    std::vector<SiteSeen> seen;
    for (const auto& [site, details] : engine.connections) seen.push_back({site, engine.clock.wall_now(), {}});
    note_seen(seen);
  }

  // Sends what a subscriber has missed, if it matters or the last report is old enough.
  void catch_up(std::uint64_t id, bool important) {
    const auto found = subscriptions.find(id);
    if (found == subscriptions.end() || !found->second.is_behind) return;
    Subscription& subscription = found->second;
    const MonotonicTime now = engine.clock.now();
    if (!important && now - subscription.sent < engine.options.report_interval) return;
    subscription.sent = now;
    subscription.is_behind = false;
    const bool last = subscription.job->has_ended();
    const std::string json = to_json(subscription.job->report());
    const Report report = last ? std::move(subscription.report) : subscription.report;  // it may unsubscribe itself
    if (last) subscriptions.erase(found);
    report(json, last);
  }
};

Coordinator::Coordinator(Store& store, StateFiles& state_files, tasks::AggregatorContext context, const Clock& clock,
                         RandomSource& random, CoordinatorTransport& transport, WorkQueue& work_queue,
                         CoordinatorOptions options)
    : impl_(new Impl{{store,
                      state_files,
                      std::move(context),
                      clock,
                      random,
                      transport,
                      work_queue,
                      std::move(options),
                      clock.now(),
                      {},
                      {},
                      {}},
                     {},
                     {}}) {
  impl_->engine.changed = [impl = impl_.get()](Job& job) { impl->job_changed(job); };
}

Coordinator::~Coordinator() = default;

Status Coordinator::resume() {
  TRIB_ASSIGN(const auto referenced, impl_->engine.store.referenced_states());
  TRIB_TRY(impl_->engine.state_files.sweep(referenced));
  TRIB_ASSIGN(auto records, impl_->engine.store.jobs());
  for (JobRecord& record : records) {
    impl_->jobs.push_back(std::make_shared<Job>(impl_->engine, std::move(record)));
    TRIB_TRY(impl_->jobs.back()->start());
  }
  return {};
}

// --- Operators ---

Result<std::string> Coordinator::submit_job(std::string_view job_file, std::string_view file_name) {
  auto& engine = impl_->engine;
  TRIB_ASSIGN(const tasks::JobSpec checked, engine.options.read_job(job_file, file_name));
  TRIB_ASSIGN(const tasks::JobSpec spec, engine.options.pin_job(checked, engine.context));
  JobRecord record;
  record.id = make_job_id(spec.name, engine.random);
  record.name = spec.name;
  record.task = spec.task;
  record.file_text = spec.file_text;
  record.file_name = file_name;
  record.submitted = engine.clock.wall_now();
  TRIB_TRY(engine.store.create_job(record));
  const std::string id = record.id;
  impl_->jobs.push_back(std::make_shared<Job>(engine, std::move(record)));
  TRIB_TRY(impl_->jobs.back()->start());
  log_info({.job = id}, "job {} submitted: {} rounds of {}", id, spec.rounds, spec.task);
  return id;
}

Status Coordinator::cancel_job(std::string_view job, std::string_view reason) {
  TRIB_ASSIGN(Job* const found, impl_->find(job));
  if (found->has_ended())
    return Error{Errc::already_exists,
                 "the job " + found->id() + " has ended: it is " + std::string(to_string(found->record().state))};
  found->cancel(reason);
  return {};
}

void Coordinator::export_model(std::string_view job, bool averaged, std::filesystem::path directory,
                               std::function<void(Status)> done) {
  auto& engine = impl_->engine;
  const auto found = impl_->find(job);
  if (!found) return done(found.error());
  const Job& exported = **found;
  if (exported.committed_round() < 1)
    return done(Error{Errc::unavailable, "the job " + exported.id() + " has no committed round to export yet"});
  // A task of its own: the job's may be at work.
  auto work = [spec = exported.spec(), sha256 = exported.committed_rounds().back().state_sha256,
               find_task = engine.options.find_task, context = engine.context, &files = engine.state_files, averaged,
               directory = std::move(directory)]() -> Status {
    TRIB_ASSIGN(const tasks::TaskDefinition* definition, find_task(spec.task));
    TRIB_ASSIGN(const auto task, definition->make_server(spec, context));
    TRIB_ASSIGN(const TensorMap state, files.read(sha256));
    return task->export_model(state, averaged, directory);
  };
  auto result = std::make_shared<Status>();
  engine.work_queue.run([result, work = std::move(work)] { *result = guarded(work); },
                        [result, done = std::move(done)] { done(*result); });
}

// --- Sites ---

void Coordinator::client_connected(const std::string& client, ClientDetails details) {
  impl_->note_seen({{client, impl_->engine.clock.wall_now(), details.software_version}});
  impl_->engine.connections[client] = std::move(details);
  impl_->each([&](Job& job) { job.client_connected(client); });
}

void Coordinator::client_disconnected(const std::string& client) {
  if (impl_->engine.connections.erase(client) > 0) impl_->note_seen({{client, impl_->engine.clock.wall_now(), {}}});
  impl_->each([&](Job& job) { job.client_disconnected(client); });
}

void Coordinator::client_revoked(const std::string& client, std::string_view reason) {
  impl_->engine.connections.erase(client);
  const std::string why = "revoked" + (reason.empty() ? "" : ": " + std::string(reason));
  impl_->each([&](Job& job) { job.drop_site(client, why); });
}

Status Coordinator::job_reply(const std::string& client, std::string_view job, bool accepted, std::string_view reason,
                              std::int64_t declared_records, const std::optional<SiteBudget>& budget) {
  TRIB_ASSIGN(Job* const found, impl_->find(job));
  return found->job_reply(client, accepted, reason, declared_records, budget);
}

Status Coordinator::round_reply(const std::string& client, std::string_view job, std::int64_t round,
                                const RoundAnswer& answer) {
  TRIB_ASSIGN(Job* const found, impl_->find(job));
  return found->round_reply(client, round, answer);
}

void Coordinator::progress(const std::string& client, std::string_view job, const ClientProgress& progress) {
  if (const auto found = impl_->find(job)) (*found)->progress(client, progress);
}

void Coordinator::account_bytes(const std::string& client, std::string_view job, std::int64_t round,
                                std::uint64_t bytes_down, std::uint64_t bytes_up) {
  if (const auto found = impl_->find(job)) (*found)->account_bytes(client, round, bytes_down, bytes_up);
}

Status Coordinator::check_contribution(const std::string& client, std::string_view job, std::int64_t round,
                                       double weight, bool is_private) {
  TRIB_ASSIGN(Job* const found, impl_->find(job));
  return found->check_contribution(client, round, weight, is_private);
}

Status Coordinator::contribution(const std::string& client, std::string_view job, std::int64_t round, double weight,
                                 bool is_private, TensorMap weighted_tensors) {
  TRIB_ASSIGN(Job* const found, impl_->find(job));
  return found->contribution(client, round, weight, is_private, std::move(weighted_tensors));
}

Result<std::shared_ptr<const JobOffer>> Coordinator::offer(std::string_view job) const {
  TRIB_ASSIGN(Job* const found, impl_->find(job));
  if (found->has_ended()) return Error{Errc::not_found, "the job " + found->id() + " has ended"};
  if (found->offer() == nullptr) return Error{Errc::unavailable, "the job " + found->id() + " is being prepared"};
  return found->offer();
}

// --- Time ---

void Coordinator::tick() {
  impl_->each([](Job& job) { job.tick(); });
  impl_->note_connected();
  std::vector<std::uint64_t> ids;
  for (const auto& [id, subscription] : impl_->subscriptions) ids.push_back(id);
  for (const std::uint64_t id : ids) impl_->catch_up(id, false);
}

std::optional<MonotonicTime> Coordinator::next_deadline() const {
  std::optional<MonotonicTime> next;
  for (const auto& job : impl_->jobs)
    if (const auto deadline = job->next_deadline()) next = std::min(next.value_or(*deadline), *deadline);
  return next;
}

// --- Views ---

std::string Coordinator::jobs_json() const {
  std::string text = R"({"jobs":[)";
  for (const auto& job : impl_->jobs) {
    if (job != impl_->jobs.front()) text += ',';
    text += to_summary_json(job->report());
  }
  return text + "]}";
}

Result<std::string> Coordinator::job_json(std::string_view job) const {
  TRIB_ASSIGN(Job* const found, impl_->find(job));
  return to_json(found->report());
}

Result<std::string> Coordinator::job_file(std::string_view job) const {
  TRIB_ASSIGN(Job* const found, impl_->find(job));
  return found->record().file_text;
}

std::string Coordinator::sites_json() const {
  namespace json = boost::json;
  std::map<std::string, json::object> sites;
  const auto entry = [&](const std::string& name) -> json::object& {
    auto [found, is_new] = sites.try_emplace(name);
    if (is_new) found->second = {{"name", name}, {"connected", false}};
    return found->second;
  };
  const auto enrolled = impl_->engine.store.sites();
  for (const SiteRecord& site : enrolled ? *enrolled : std::vector<SiteRecord>{}) {
    json::object& object = entry(site.name);
    object["is_operator"] = site.is_operator;
    if (const auto certificates = impl_->engine.store.certificates(site.name); certificates && !certificates->empty())
      object["certificate_until"] = to_iso8601(certificates->back().not_after);
    object["enrolled"] = to_iso8601(site.enrolled);
    object["revoked"] = site.revoked ? json::value(to_iso8601(*site.revoked)) : json::value(nullptr);
    object["revocation_reason"] = site.revocation_reason;
    object["last_seen"] = site.last_seen ? json::value(to_iso8601(*site.last_seen)) : json::value(nullptr);
    object["software_version"] = site.software_version;
  }
  for (const auto& [name, details] : impl_->engine.connections) {
    json::object& object = entry(name);
    object["connected"] = true;
    object["last_seen"] = to_iso8601(impl_->engine.clock.wall_now());
    object["software_version"] = details.software_version;
    object["device"] = details.device;
    object["address"] = details.address;
  }
  std::map<std::string, json::array> waits;
  for (const auto& job : impl_->jobs)
    for (const SiteWait& wait : job->waits())
      waits[wait.site].push_back(json::object{
          {"job", job->id()}, {"round", wait.round}, {"reason", wait.reason}, {"since", to_iso8601(wait.since)}});
  for (auto& [name, object] : sites) object["waiting_for"] = std::move(waits[name]);
  json::object document;
  json::array& list = document["sites"].emplace_array();
  for (auto& [name, object] : sites) list.push_back(std::move(object));
  if (!enrolled) document["error"] = enrolled.error().message;
  return json::serialize(document);
}

CoordinatorFigures Coordinator::figures() const {
  CoordinatorFigures figures;
  for (const JobState state : {JobState::running, JobState::finished, JobState::failed, JobState::cancelled})
    figures.jobs_by_state[std::string(to_string(state))] = 0;
  for (const auto& job : impl_->jobs) {
    ++figures.jobs_by_state[std::string(to_string(job->record().state))];
    if (!job->has_ended())
      figures.running.push_back({job->id(), std::string(job->state_name()),
                                 std::max<std::int64_t>(job->committed_round(), 0), job->spec().rounds,
                                 std::ssize(job->waits())});
    for (const auto& [name, site] : job->sites()) {
      auto& bytes = figures.bytes_by_site[name];
      bytes.down += site.bytes_down;
      bytes.up += site.bytes_up;
    }
  }
  return figures;
}

bool Coordinator::has_running_jobs() const {
  return std::any_of(impl_->jobs.begin(), impl_->jobs.end(), [](const auto& job) { return !job->has_ended(); });
}

std::vector<std::string> Coordinator::running_jobs() const {
  std::vector<std::string> running;
  for (const auto& job : impl_->jobs)
    if (!job->has_ended()) running.push_back(job->id());
  return running;
}

Result<std::uint64_t> Coordinator::subscribe(std::string_view job, Report report) {
  TRIB_ASSIGN(Job* const found, impl_->find(job));
  const std::uint64_t id = impl_->next_subscription++;
  impl_->subscriptions[id] = {found, std::move(report), {}, true};
  impl_->catch_up(id, true);
  return id;
}

void Coordinator::unsubscribe(std::uint64_t subscription) {
  impl_->subscriptions.erase(subscription);
}

}  // namespace trib::server
