#include "tests/faults/world.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "common/log.h"

namespace trib::server::testing {
namespace {

// What a killed process is. Not a std::exception: nobody on the way may take it for a bug and go on.
struct Killed {};

}  // namespace

class World::CrashingStateFiles final : public MemoryStateFiles {
 public:
  explicit CrashingStateFiles(World& world) : world_(world) {}
  Result<std::string> write(const TensorMap& state, std::string_view job, std::int64_t round) override {
    world_.maybe_crash("before state_write");
    auto written = MemoryStateFiles::write(state, job, round);
    world_.maybe_crash("after state_write");
    return written;
  }

 private:
  World& world_;
};

World::World(tasks::JobSpec spec, int sites, Plan& plan, std::uint64_t seed)
    : spec_(std::move(spec)),
      plan_(plan),
      random_(RandomKey::from_seed(seed)),
      files_(std::make_unique<CrashingStateFiles>(*this)) {
  spdlog::set_level(spdlog::level::off);  // what a thousand aggregators would say
  spec_.selection.expected_clients = sites;
  for (int i = 0; i < sites; ++i) {
    Site site;
    site.name = "site-" + std::to_string(i + 1);
    site.index = i;
    sites_.push_back(std::move(site));
  }
  store_.before = [this](std::string_view call) {
    maybe_crash("before " + std::string(call));
    return Status();
  };
  store_.after = [this](std::string_view call) { maybe_crash("after " + std::string(call)); };
}

World::~World() = default;

// --- Time and messages ---

void World::at(Milliseconds delay, std::function<void()> event) {
  events_.emplace(clock_.now() + delay, std::move(event));
}

void World::to_site(const std::string& client, std::function<void(Site&)> event) {
  Site& site = *std::find_if(sites_.begin(), sites_.end(), [&](const Site& s) { return s.name == client; });
  at(plan_.network_delay(), [this, &site, connection = site.connection, event = std::move(event)] {
    if (!site.is_up || site.connection != connection) return;
    if (plan_.breaks_connection()) return disconnect(site, plan_.reconnect_time());
    event(site);
  });
}

void World::to_server(Site& site, std::function<void(Coordinator&)> event) {
  at(plan_.network_delay(), [this, &site, connection = site.connection, event = std::move(event)] {
    if (!site.is_up || site.connection != connection) return;
    if (plan_.breaks_connection()) return disconnect(site, plan_.reconnect_time());
    on_server(event);
  });
}

void World::on_server(const std::function<void(Coordinator&)>& call) {
  if (coordinator_ == nullptr) return;
  try {
    call(*coordinator_);
  } catch (const Killed&) {
    crash();
  }
}

void World::run(std::function<void()> work, std::function<void()> done) {
  at(plan_.computing_time(), [this, life = server_life_, work = std::move(work), done = std::move(done)] {
    if (life != server_life_) return;
    on_server([&](Coordinator&) {
      work();
      done();
    });
  });
}

// --- The aggregator's lives ---

void World::maybe_crash(const std::string& point) {
  if (plan_.crashes(point)) throw Killed();
}

void World::start_server() {
  auto options = counting_options(spec_, static_cast<std::int64_t>(sites_.size()));
  coordinator_ = std::make_unique<Coordinator>(store_, *files_, tasks::AggregatorContext{}, clock_, random_, *this,
                                               *this, options);
  on_server([this](Coordinator& coordinator) {
    ASSERT_TRUE(coordinator.resume());
    if (!sqlite_->jobs().value().empty()) return;
    ASSERT_TRUE(coordinator.submit_job("[job]", "job.toml"));
  });
  for (Site& site : sites_) at(plan_.reconnect_time(), [this, &site] { connect(site); });
}

void World::crash() {
  ++crash_count_;
  ++server_life_;
  coordinator_.reset();
  check_history();
  for (Site& site : sites_) {
    site.is_up = false;
    ++site.connection;
  }
  at(plan_.restart_time(), [this] { start_server(); });
}

void World::connect(Site& site) {
  if (coordinator_ == nullptr || site.is_up) return;
  site.is_up = true;
  ++site.connection;
  on_server([&](Coordinator& coordinator) { coordinator.client_connected(site.name); });
}

void World::disconnect(Site& site, Milliseconds away) {
  site.is_up = false;
  ++site.connection;
  on_server([&](Coordinator& coordinator) { coordinator.client_disconnected(site.name); });
  at(away, [this, &site] { connect(site); });
}

// --- What a site does ---

void World::offer_job(const std::string& client, std::shared_ptr<const JobOffer> offer) {
  to_site(client, [this, offer](Site& site) {
    to_server(site, [&site, offer](Coordinator& coordinator) {
      (void)coordinator.job_reply(site.name, offer->job_id, true, "", 100);
    });
  });
}

void World::start_round(const std::string& client, const std::string& job, std::int64_t round,
                        std::int64_t last_counted, std::shared_ptr<const TensorMap> broadcast) {
  job_ = job;
  EXPECT_EQ(broadcast->at("round").as<std::int64_t>()[0], round - 1);
  EXPECT_EQ(last_counted, last_round_that_counts(client)) << client << " at the start of round " << round;
  to_site(client, [this, round](Site& site) { asked(site, round); });
}

void World::asked(Site& site, std::int64_t round) {
  const auto reply = [&](RoundAnswer answer) {
    to_server(site, [this, &site, round, answer](Coordinator& coordinator) {
      (void)coordinator.round_reply(site.name, job_, round, answer);
    });
  };
  if (site.outbox.contains(round)) {
    reply({true, "", false, false});
    return send(site, round, {});
  }
  if (site.training.contains(round)) return reply({true, "", false, false});
  if (site.charged.contains(round)) return reply({false, "charged, and the contribution is lost", false, false});

  SiteFault fault = site.faulted.insert(round).second ? plan_.fault(site.index, round) : SiteFault{};
  if (fault.fault == Fault::declines) return reply({false, "declines", false, false});
  if (fault.fault == Fault::over_budget) return reply({false, "over budget", true, false});
  if (fault.fault == Fault::disconnects) return disconnect(site, fault.duration);
  site.charged.insert(round);
  if (fault.fault == Fault::dies) {
    reply({true, "", false, false});
    return at(plan_.network_delay() * 2, [this, &site, away = fault.duration] { disconnect(site, away); });
  }
  reply({true, "", false, false});
  if (fault.fault == Fault::silent) return;
  site.training.insert(round);
  const Milliseconds time = fault.fault == Fault::late ? fault.duration : plan_.training_time();
  at(time, [this, &site, round, fault] {
    site.training.erase(round);
    site.outbox[round] = unit_contribution(site.index, static_cast<std::int64_t>(sites_.size()));
    send(site, round, fault);
  });
}

void World::send(Site& site, std::int64_t round, SiteFault fault) {
  TensorMap tensors = site.outbox.at(round);
  if (fault.fault == Fault::bad_values) tensors["counts"].as<float>()[0] = std::numeric_limits<float>::quiet_NaN();
  if (fault.fault == Fault::wrong_layout) tensors["counts"] = HostTensor(DType::f32, {1, 1});
  const bool is_private = fault.fault != Fault::not_private;
  for (int i = 0; i < (fault.fault == Fault::twice ? 2 : 1); ++i) {
    to_server(site, [this, &site, round, tensors, is_private](Coordinator& coordinator) {
      const Status status = coordinator.contribution(site.name, job_, round, 1.0, is_private, tensors);
      if (status) maybe_crash("after contribution");
    });
  }
}

void World::close_round(const std::string& client, const std::string&, std::int64_t round) {
  const auto rounds = committed_rounds();
  EXPECT_TRUE(!rounds.empty() && rounds.back().round >= round)
      << client << " was told that round " << round << " is closed, and it is not in the store";
  to_site(client, [round](Site& site) { site.outbox.erase(round); });
}

void World::end_job(const std::string& client, const std::string&, const std::string&) {
  to_site(client, [](Site& site) { site.outbox.clear(); });
}

// --- The run and its checks ---

void World::run() {
  start_server();
  constexpr int most_events = 100'000;
  for (int i = 0; i < most_events; ++i) {
    if (const auto jobs = sqlite_->jobs().value(); !jobs.empty() && jobs.front().state != JobState::running)
      return check_outcome();
    const auto deadline = coordinator_ != nullptr ? coordinator_->next_deadline() : std::nullopt;
    if (deadline && (events_.empty() || *deadline <= events_.begin()->first)) {
      if (*deadline > clock_.now()) clock_.advance(*deadline - clock_.now());
      on_server([](Coordinator& coordinator) { coordinator.tick(); });
      continue;
    }
    if (events_.empty()) break;
    auto event = events_.extract(events_.begin());
    clock_.advance(event.key() - clock_.now());
    event.mapped()();
  }
  ADD_FAILURE() << "the job does not end: "
                << (coordinator_ != nullptr && !job_.empty() ? coordinator_->job_json(job_).value() : "");
}

JobRecord World::job() const {
  return sqlite_->jobs().value().front();
}

std::vector<RoundRecord> World::committed_rounds() const {
  auto rounds = sqlite_->rounds(job().id).value();
  std::erase_if(rounds, [](const RoundRecord& round) { return round.round == 0 || !round.committed; });
  return rounds;
}

void World::check_history() {
  if (sqlite_->jobs().value().empty()) return;
  const auto rounds = committed_rounds();
  ASSERT_GE(rounds.size(), history_.size()) << "a committed round is lost";
  for (std::size_t i = 0; i < history_.size(); ++i) EXPECT_EQ(rounds[i].state_sha256, history_[i].state_sha256);
  history_ = rounds;
}

std::set<std::string> World::counted(std::int64_t round) {
  const TensorMap model = files_->read(committed_rounds().back().state_sha256).value();
  const auto counts = model.at("counts").as<double>();
  std::set<std::string> names;
  for (const Site& site : sites_) {
    const double count =
        counts[static_cast<std::size_t>(round - 1) * sites_.size() + static_cast<std::size_t>(site.index)];
    EXPECT_TRUE(count == 0.0 || count == 1.0) << site.name << " counts " << count << " times in round " << round;
    if (count != 0.0) names.insert(site.name);
  }
  return names;
}

std::int64_t World::last_round_that_counts(const std::string& site) {
  std::int64_t last = 0;
  for (const RoundRecord& round : committed_rounds())
    if (counted(round.round).contains(site)) last = round.round;
  return last;
}

void World::check_outcome() {
  check_history();
  const auto rounds = committed_rounds();
  for (std::size_t i = 0; i < rounds.size(); ++i) {
    const std::int64_t round = rounds[i].round;
    EXPECT_EQ(round, static_cast<std::int64_t>(i) + 1);
    std::set<std::string> recorded;
    const auto round_sites = sqlite_->round_sites(job().id, round).value();
    for (const RoundSiteRecord& site : round_sites) {
      if (site.status == RoundSiteStatus::contributed) recorded.insert(site.site);
      const auto& actual = sites_.at(static_cast<std::size_t>(std::stoi(site.site.substr(5)) - 1));
      EXPECT_TRUE(!site.took_part || actual.charged.contains(round)) << site.site << " in round " << round;
    }
    EXPECT_EQ(counted(round), recorded) << "round " << round;
    EXPECT_EQ(std::ssize(recorded), rounds[i].contributions);
    EXPECT_GE(std::ssize(recorded), spec_.selection.minimum_clients);
  }
  const auto participations = sqlite_->participations(job().id).value();
  for (const auto& [site, count] : participations) EXPECT_LE(count, spec_.max_participations()) << site;
  if (job().state == JobState::finished) {
    EXPECT_EQ(std::ssize(rounds), spec_.rounds);
  } else {
    EXPECT_FALSE(job().reason.empty());
  }
}

}  // namespace trib::server::testing
