#include "tests/e2e/federation.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <thread>

#include "common/files.h"
#include "server/config.h"
#include "server/init.h"

namespace trib::e2e {
namespace {

namespace fs = std::filesystem;

const fs::path source(TRIBUTARY_SOURCE_DIR);
const fs::path programs = fs::path(TRIBUTARY_BINARY_DIR) / "bin";

void append(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::app) << text;
}

std::string read_all(const fs::path& path) {
  return read_file(path) ? *read_file(path) : std::string();
}

}  // namespace

Federation::Federation(const std::map<std::string, std::string>& settings, bool http) {
  server::InitOptions init;
  init.directory = server_directory();
  init.federation = "process tests";
  const int port = cli::free_loopback_port().value();
  init.listen = "127.0.0.1:" + std::to_string(port);
  if (http) {
    int http_port = port;
    while (http_port == port) http_port = cli::free_loopback_port().value();
    init.http = "127.0.0.1:" + std::to_string(http_port);
    http_url_ = "http://" + init.http;
  }
  init.host_names = {"127.0.0.1"};
  init.model_directories = {source / "base"};
  server::init_federation(init).value();
  const fs::path config = server::ServerDirectory{server_directory()}.config();
  std::string text = read_all(config);
  for (const auto& [key, value] : settings) {
    const auto line = text.find("# " + key + " = ");
    EXPECT_NE(line, std::string::npos) << "server.toml does not show " << key;
    if (line == std::string::npos) continue;
    text.replace(line, text.find('\n', line) - line, key + " = \"" + value + "\"");
  }
  std::ofstream(config) << text;
}

Federation::~Federation() {
  for (auto& [name, process] : processes_) process.signal(SIGKILL);
}

// ---------------------------------------------------------------------------------------------------------------
// Processes

void Federation::start(const std::string& process, std::vector<std::string> arguments, const std::string& failpoint) {
  if (failpoint.empty()) {
    ::unsetenv("TRIBUTARY_FAILPOINT");
  } else {
    ::setenv("TRIBUTARY_FAILPOINT", failpoint.c_str(), 1);
  }
  auto started = cli::ChildProcess::start(arguments, root() / (process + ".log"));
  ::unsetenv("TRIBUTARY_FAILPOINT");
  ASSERT_TRUE(started) << started.error().message;
  processes_.erase(process);
  processes_.emplace(process, std::move(*started));
}

void Federation::start_server(const std::string& failpoint) {
  start("aggregator", {programs / "trib-server", "--config", server::ServerDirectory{server_directory()}.config()},
        failpoint);
  wait_until(
      "the aggregator to answer",
      [&] {
        return ask({"job", "list", "--json"}).has_value();
      },
      30);
}

void Federation::kill_server() {
  processes_.at("aggregator").signal(SIGKILL);
  await_death_of_server();
}

int Federation::stop_server() {
  return processes_.at("aggregator").stop(std::chrono::seconds(30));
}

void Federation::await_death(const std::string& process) {
  wait_until(process + " to be killed", [&] { return processes_.at(process).poll().has_value(); });
  EXPECT_EQ(processes_.at(process).poll().value_or(0), 128 + SIGKILL) << logs();
}

void Federation::await_death_of_server() {
  await_death("aggregator");
}

std::string Federation::invite(int site) {
  const auto answer = ask({"invite", name_of(site), "--json"});
  EXPECT_TRUE(answer.has_value()) << logs();
  return answer ? std::string(answer->at("token").as_string()) : std::string();
}

// Every site has its own part of CLINC150's training set.
void Federation::write_data(int site) const {
  std::ifstream all(source / "datasets" / "clinc150" / "train.tsv");
  std::ofstream part(root() / (name_of(site) + ".tsv"));
  std::string line;
  std::getline(all, line);
  part << line << "\n";
  for (std::int64_t row = 0; std::getline(all, line); ++row) {
    if (row % 60 == site) part << line << "\n";
  }
}

Finished Federation::join(int site, const std::string& token, const std::string& into, double epsilon_cap) {
  write_data(site);
  const fs::path directory = root() / (into.empty() ? name_of(site) : into);
  Finished joined =
      run({programs / "trib-client", "join", token, "--dir", directory, "--data", root() / (name_of(site) + ".tsv"),
           "--records", std::to_string(records), "--epsilon-cap", std::to_string(epsilon_cap), "--models", source / "base"});
  if (joined.exit_code == 0) {
    append(client::SiteDirectory{directory}.config(),
           "\n[connection]\nreconnect_minimum = \"50ms\"\nreconnect_maximum = \"500ms\"\n");
  }
  return joined;
}

void Federation::join(int site, double epsilon_cap) {
  const Finished joined = join(site, invite(site), "", epsilon_cap);
  ASSERT_EQ(joined.exit_code, 0) << joined.output;
}

void Federation::start_client(const std::string& process, const fs::path& directory, const std::string& failpoint) {
  start(process, {programs / "trib-client", "run", "--dir", directory}, failpoint);
}

void Federation::start_site(int site, const std::string& failpoint) {
  start_client(name_of(site), directory_of(site).root, failpoint);
}

void Federation::kill_site(int site) {
  processes_.at(name_of(site)).signal(SIGKILL);
  await_death(name_of(site));
}

void Federation::await_death_of_site(int site) {
  await_death(name_of(site));
}

int Federation::stop_site(int site) {
  return processes_.at(name_of(site)).stop(std::chrono::seconds(30));
}

void Federation::signal_site(int site, int signal) {
  processes_.at(name_of(site)).signal(signal);
}

std::optional<int> Federation::exit_of(const std::string& process) {
  return processes_.at(process).poll();
}

Finished Federation::run_client_to_its_end(const fs::path& directory) {
  return run({programs / "trib-client", "run", "--dir", directory});
}

std::string Federation::log_of(const std::string& process) const {
  return read_all(root() / (process + ".log"));
}

Finished Federation::run(std::vector<std::string> arguments, int seconds) {
  const std::string name = "run-" + std::to_string(++runs_);
  auto process = cli::ChildProcess::start(arguments, root() / (name + ".log"));
  if (!process) return {127, process.error().message};
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  while (!process->poll() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  const bool ended = process->poll().has_value();
  const int exit_code = process->stop(std::chrono::milliseconds(0));
  return {ended ? exit_code : -1, log_of(name)};
}

// ---------------------------------------------------------------------------------------------------------------
// The operator

Finished Federation::trib(std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--server", server_directory()});
  return trib_alone(std::move(arguments));
}

Finished Federation::trib_alone(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), programs / "trib");
  return run(std::move(arguments));
}

std::optional<json::value> Federation::ask(const std::vector<std::string>& arguments) {
  std::vector<std::string> command{programs / "trib"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  command.insert(command.end(), {"--server", server_directory()});
  const auto output = cli::run_program(command);
  if (!output) return std::nullopt;
  boost::system::error_code error;
  json::value value = json::parse(*output, error);
  if (error) return std::nullopt;
  return value;
}

fs::path Federation::write_job(const JobShape& shape) {
  const fs::path file = root() / ("job-" + std::to_string(++jobs_) + ".toml");
  std::ofstream(file) << "[job]\nname = \"messages-" << jobs_ << "\"\ntask = \"lora_text\"\nrounds = " << shape.rounds
                      << "\nevaluate_every = 1000\n\n[selection]\nexpected_clients = 3\nminimum_clients = "
                      << shape.minimum_clients
                      << "\nround_deadline = \"60s\"\n\n[privacy]\nepsilon = 8.0\ndelta = 1e-5\n\n[model]\nbase = "
                         "\"roberta-mini-imdb\"\nlabels = [\"banking\", \"credit_cards\", \"kitchen_and_dining\", "
                         "\"home\", \"auto_and_commute\", \"travel\", \"utility\", \"work\", \"small_talk\", "
                         "\"meta\"]\n\n[training]\nbatch_size = 16\nlearning_rate = 0.5\nlocal_steps = "
                      << shape.local_steps << "\n";
  return file;
}

std::string Federation::submit(const JobShape& shape) {
  const auto answer = ask({"job", "submit", write_job(shape), "--json"});
  EXPECT_TRUE(answer.has_value()) << logs();
  return answer ? std::string(answer->at("id").as_string()) : std::string();
}

json::object Federation::job(const std::string& id) {
  const auto answer = ask({"job", "show", id, "--json"});
  return answer && answer->is_object() ? answer->as_object() : json::object();
}

std::string Federation::state_of(const std::string& id) {
  const json::object report = job(id);
  return report.contains("state") ? std::string(report.at("state").as_string()) : std::string();
}

json::object Federation::await_end(const std::string& id) {
  wait_until("job " + id + " to end", [&] {
    const std::string state = state_of(id);
    return state == "finished" || state == "failed" || state == "cancelled";
  });
  json::object report = job(id);
  EXPECT_EQ(state_of(id), "finished") << json::serialize(report);
  return report;
}

json::array Federation::sites() {
  const auto answer = ask({"sites", "--json"});
  return answer ? answer->at("sites").as_array() : json::array();
}

std::vector<std::int64_t> Federation::contributions(const json::object& job) {
  std::vector<std::int64_t> result;
  if (!job.contains("rounds")) return result;
  for (const auto& round : job.at("rounds").as_array()) {
    result.push_back(round.at("contributions").to_number<std::int64_t>());
  }
  return result;
}

// ---------------------------------------------------------------------------------------------------------------
// What a site has on disk

std::vector<privacy::LedgerEntry> Federation::ledger(int site) const {
  const auto entries = privacy::read_ledger(directory_of(site).ledger());
  return entries ? *entries : std::vector<privacy::LedgerEntry>();
}

std::map<std::int64_t, int> Federation::charges(int site, const std::string& job) const {
  std::map<std::int64_t, int> result;
  for (const auto& entry : ledger(site)) {
    if (entry.spends() && entry.charge.job == job) ++result[entry.charge.round];
  }
  return result;
}

std::size_t Federation::outbox_size(int site) const {
  const auto items = client::list_outbox(directory_of(site).outbox());
  return items ? items->size() : 0;
}

json::object Federation::status(int site) const {
  boost::system::error_code error;
  const json::value value = json::parse(read_all(directory_of(site).status()), error);
  return !error && value.is_object() ? value.as_object() : json::object();
}

bool Federation::wait_until(const std::string& what, const std::function<bool()>& done, int seconds) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  while (!done()) {
    if (std::chrono::steady_clock::now() > deadline) {
      ADD_FAILURE() << "waited " << seconds << " s for " << what << "\n" << logs();
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return true;
}

std::string Federation::logs() const {
  std::ostringstream out;
  for (const auto& file : fs::directory_iterator(root())) {
    if (file.path().extension() != ".log" || file.path().filename().string().starts_with("run-")) continue;
    out << file.path().filename().string() << ":\n" << cli::tail_of_file(file.path(), 15);
  }
  return out.str();
}

}  // namespace trib::e2e
