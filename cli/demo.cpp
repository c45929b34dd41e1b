// `trib demo`: a whole federation on this machine. Real daemons, real sockets, real TLS; three sites join by invite,
// train one job with differential privacy and the same job without its noise, and everything is stopped again.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <boost/json.hpp>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <thread>

#include "cli/admin_client.h"
#include "cli/commands.h"
#include "cli/job_view.h"
#include "cli/process.h"
#include "cli/terminal.h"
#include "client/site_config.h"
#include "common/files.h"
#include "common/random.h"
#include "server/init.h"
#include "tasks/task.h"

namespace trib::cli {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using tributary::proto::AdminRequest;

constexpr std::string_view comparison_set = "without-privacy";

struct DemoOptions {
  std::string job = "experiments/demo/clinc.toml", models = "base", directory = "demo-run", device = "auto";
  std::vector<std::string> overrides;
  std::int64_t sites = 3;
  bool private_only = false, json = false;
};

std::atomic<bool> interrupted{false};

// What is worth telling about one job once it has ended.
struct FinishedJob {
  json::object report;
  bool is_private = true;
};

class Demo {
 public:
  explicit Demo(DemoOptions options) : options_(std::move(options)), root_(fs::absolute(options_.directory)) {}

  Status run() {
    const auto started = std::chrono::steady_clock::now();
    TRIB_TRY(prepare());
    TRIB_TRY(start_aggregator());
    TRIB_TRY(start_sites());
    TRIB_TRY(run_job(options_.overrides,
                     is_private() ? "with differential privacy" : "without privacy, as its file says", is_private()));
    if (compares()) {
      auto overrides = options_.overrides;
      overrides.push_back("job.name=" + spec_.name + "-without-privacy");
      overrides.push_back("privacy.enabled=false");
      overrides.push_back("data.set=" + std::string(comparison_set));
      TRIB_TRY(run_job(overrides, "the same job without its noise, which is what privacy costs", false));
    }
    TRIB_TRY(export_adapter());
    stop_daemons();
    print_closing(std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
    return {};
  }

  void stop_daemons() {
    clients_.clear();
    server_.reset();
  }

 private:
  bool is_private() const { return spec_.privacy.enabled; }
  bool compares() const { return is_private() && !options_.private_only; }
  fs::path site_directory(std::size_t site) const { return root_ / site_name(site); }
  static std::string site_name(std::size_t site) { return "site-" + std::to_string(site + 1); }

  void say(std::string_view text) const {
    if (!options_.json) std::cout << bold("==> ") << text << std::endl;
  }

  Status prepare() {
    TRIB_ASSIGN(spec_, tasks::read_job_file(options_.job, options_.overrides));
    TRIB_ASSIGN(task_, tasks::find_task(spec_.task));
    if (spec_.trusts_aggregator()) {
      return Error{Errc::unsupported,
                   options_.job +
                       " has privacy.noise_by = \"aggregator\", and every client a ledger at the aggregator: the "
                       "demo has neither. Simulate it: trib simulate " +
                       options_.job};
    }
    const fs::path marker = root_ / "made-by-trib-demo";
    if (fs::exists(root_) && !fs::is_empty(root_)) {
      if (!fs::exists(marker)) {
        return Error{Errc::already_exists,
                     root_.string() + " exists and was not made by the demo: name another with --dir"};
      }
      fs::remove_all(root_);
    }
    TRIB_TRY(make_directories(root_));
    TRIB_TRY(write_file_durably(marker, "A demo made this directory; the next one replaces it.\n"));
    const fs::path program(fs::read_symlink("/proc/self/exe"));
    programs_ = program.parent_path();

    say("dealing " + fs::path(options_.job).filename().string() + "'s training data out to " +
        std::to_string(options_.sites) + " sites with different mixtures of labels");
    ChaCha20Random random(RandomKey::from_seed(spec_.seed));
    TRIB_TRY(make_directories(root_ / "data"));
    TRIB_ASSIGN(site_data_, task_->split_data(spec_, fs::absolute(fs::path(options_.job)).parent_path(), options_.sites,
                                              random, root_ / "data"));
    return {};
  }

  Status start_aggregator() {
    say("making a federation: its certificate authority, the aggregator's certificate and configuration");
    TRIB_ASSIGN(const int port, free_loopback_port());
    server::InitOptions init;
    init.directory = root_ / "aggregator";
    init.federation = "demo";
    init.listen = "127.0.0.1:" + std::to_string(port);
    int http_port = port;
    while (http_port == port) {
      TRIB_ASSIGN(http_port, free_loopback_port());
    }
    init.http = "127.0.0.1:" + std::to_string(http_port);
    init.device = options_.device;
    init.host_names = {"localhost", "127.0.0.1"};
    init.model_directories = {fs::absolute(options_.models)};
    init.data_directory = fs::absolute(options_.job).parent_path();  // what the job file's paths are relative to
    TRIB_TRY(server::init_federation(init));
    say("starting trib-server on " + init.listen);
    TRIB_ASSIGN(ChildProcess process, ChildProcess::start({(programs_ / "trib-server").string(), "--config",
                                                           (init.directory / "server.toml").string()},
                                                          root_ / "trib-server.log"));
    server_ = std::make_unique<ChildProcess>(std::move(process));
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (true) {
      ServerOptions where;
      where.server = init.directory.string();
      auto client = AdminClient::connect(where);
      if (client) {
        admin_ = std::make_unique<AdminClient>(std::move(*client));
        return offer_dashboard("http://" + init.http);
      }
      TRIB_TRY(check_daemons());
      if (std::chrono::steady_clock::now() > deadline)
        return client.error().with_context("trib-server did not come up");
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }

  // The token opens this demo's aggregator alone, and on this machine alone, for as long as the demo runs.
  Status offer_dashboard(const std::string& url) {
    AdminRequest request;
    request.mutable_create_token()->set_name("demo");
    request.mutable_create_token()->set_role("operator");
    TRIB_ASSIGN(const json::value answer, admin_->request(request));
    say("while it runs, the dashboard is at " + url + "; sign in with " + std::string(answer.at("token").as_string()));
    return {};
  }

  Status start_sites() {
    for (std::size_t site = 0; site < site_data_.size(); ++site) {
      AdminRequest request;
      request.mutable_create_invite()->set_site(site_name(site));
      request.mutable_create_invite()->set_valid_minutes(10);
      TRIB_ASSIGN(const json::value invite, admin_->request(request));
      const auto& data = site_data_[site];
      char cap[32], delta[32];
      std::snprintf(cap, sizeof cap, "%g", spec_.privacy.epsilon);
      // Left to itself, a large site chooses a smaller delta, at which the job costs more than its epsilon.
      std::snprintf(delta, sizeof delta, "%g", spec_.privacy.delta);
      std::vector<std::string> join{(programs_ / "trib-client").string(),
                                    "join",
                                    std::string(invite.at("token").as_string()),
                                    "--dir",
                                    site_directory(site).string(),
                                    "--data",
                                    data.file.string(),
                                    "--data-set",
                                    spec_.data_set,
                                    "--records",
                                    std::to_string(data.records),
                                    "--epsilon-cap",
                                    cap,
                                    "--delta",
                                    delta,
                                    "--device",
                                    options_.device,
                                    "--models",
                                    fs::absolute(options_.models).string()};
      if (!is_private()) join.emplace_back("--allow-non-private");
      TRIB_TRY(run_program(join));
      TRIB_TRY(allow_comparison(site));
      TRIB_ASSIGN(ChildProcess process, ChildProcess::start({(programs_ / "trib-client").string(), "run", "--dir",
                                                             site_directory(site).string()},
                                                            root_ / (site_name(site) + ".log")));
      clients_.push_back(std::make_unique<ChildProcess>(std::move(process)));
      say(site_name(site) + " joined by invite with " + std::to_string(data.records) +
          (is_private() ? std::string(" records and a cap of epsilon ") + cap
                        : " records, and lets jobs without privacy train on them"));
    }
    return {};
  }

  // The job without privacy runs on a second name for the data that says it may: the first one's budget stays what it
  // is.
  Status allow_comparison(std::size_t site) {
    if (!compares()) return {};
    const client::SiteDirectory directory{site_directory(site)};
    TRIB_ASSIGN(client::SiteConfig config, client::read_site_config(directory.config()));
    client::DataSetPolicy policy = config.data_sets.at(spec_.data_set);
    policy.budget.reset();
    policy.allow_non_private = true;
    config.data_sets[std::string(comparison_set)] = policy;
    return write_file_durably(directory.config(), client::render_site_config(config));
  }

  // A daemon that has ended on its own is the error, with the end of its log.
  Status check_daemons() {
    if (interrupted) return Error{Errc::cancelled, "interrupted"};
    std::vector<ChildProcess*> all;
    if (server_) all.push_back(server_.get());
    for (auto& client : clients_) all.push_back(client.get());
    for (ChildProcess* process : all) {
      if (const auto status = process->poll()) {
        return Error{Errc::unavailable, process->program() + " ended unexpectedly (exit " + std::to_string(*status) +
                                            "); the end of " + process->log_file().string() + ":\n" +
                                            tail_of_file(process->log_file(), 8)};
      }
    }
    return {};
  }

  // What only the sites themselves show: their loss, from each site's own status file.
  std::string own_screens(const std::string& job) const {
    std::string line = "  on the sites' own screens, never sent:";
    bool any = false;
    for (std::size_t site = 0; site < clients_.size(); ++site) {
      const auto text = read_file(client::SiteDirectory{site_directory(site)}.status());
      if (!text) continue;
      boost::system::error_code error;
      const json::value status = json::parse(*text, error);
      if (error || !status.is_object() || !status.as_object().contains("jobs")) continue;
      for (const auto& entry : status.at("jobs").as_array()) {
        if (text_of(entry.as_object(), "id") != job) continue;
        const double loss = number_of(entry.as_object(), "loss");
        if (std::isnan(loss)) continue;
        line += "  " + site_name(site) + " loss " + format_fixed(loss, 3);
        any = true;
      }
    }
    return any ? line : std::string();
  }

  // A job that every site has refused would wait for ever for others to join.
  static Status check_taken(const json::object& report) {
    const json::array& clients = report.at("clients").as_array();
    for (const auto& client : clients)
      if (text_of(client.as_object(), "status") != "refused") return {};
    if (clients.empty()) return {};
    return Error{Errc::unavailable, "no site takes part in " + text_of(report, "name") + ": " +
                                        text_of(clients.front().as_object(), "reason")};
  }

  Status run_job(const std::vector<std::string>& overrides, std::string_view what, bool is_private) {
    TRIB_ASSIGN(const tasks::JobSpec spec, tasks::read_job_file(options_.job, overrides));
    say("job " + spec.name + ": " + std::string(what));
    AdminRequest submit;
    submit.mutable_submit_job()->set_job_file(spec.file_text);
    submit.mutable_submit_job()->set_job_file_name(options_.job);
    TRIB_ASSIGN(const json::value submitted, admin_->request(submit));
    const std::string id(submitted.at("id").as_string());

    AdminRequest show;
    show.mutable_show_job()->set_job_id(id);
    LiveBlock block(options_.json ? stderr : stdout);
    JobProgressLog log;
    json::value report;
    while (true) {
      TRIB_TRY(check_daemons());
      TRIB_ASSIGN(report, admin_->request(show));
      for (const auto& line : log.new_lines(report)) block.log("  " + line);
      const std::string state = text_of(report.as_object(), "state");
      if (state == "finished" || state == "failed" || state == "cancelled") {
        block.update({});
        if (state != "finished")
          return Error{Errc::unavailable, "the job " + state + ": " + text_of(report.as_object(), "reason")};
        break;
      }
      TRIB_TRY(check_taken(report.as_object()));
      auto lines = job_lines(report);
      if (const std::string own = own_screens(id); !own.empty()) lines.push_back(dim(own));
      block.update(lines);
      std::this_thread::sleep_for(std::chrono::milliseconds(250));
    }
    jobs_.push_back({report.as_object(), is_private});
    return {};
  }

  Status export_adapter() {
    AdminRequest request;
    request.mutable_export_model()->set_job_id(text_of(jobs_.front().report, "id"));
    TRIB_ASSIGN(const tributary::proto::AdminReply reply, admin_->exchange(request));
    TRIB_TRY(make_directories(root_ / "adapter"));
    for (const auto& file : reply.files())
      TRIB_TRY(write_file_durably(root_ / "adapter" / fs::path(file.name()).filename(), file.content()));
    admin_.reset();
    return {};
  }

  void print_closing(double seconds) const {
    if (options_.json) {
      json::array reports;
      for (const auto& job : jobs_) reports.push_back(job.report);
      std::cout << json::serialize(json::object{
                       {"jobs", std::move(reports)}, {"seconds", seconds}, {"adapter", (root_ / "adapter").string()}})
                << "\n";
      return;
    }
    std::cout << "\n" << bold("Accuracy on the aggregator's public test set") << "\n";
    std::vector<Table::Column> columns{{"round", Align::right}};
    const json::array& evaluations = jobs_.front().report.at("evaluations").as_array();
    std::vector<const char*> metrics{"accuracy"};
    if (!evaluations.empty() && evaluations.front().as_object().at("metrics").as_object().contains("accuracy_average"))
      metrics.push_back("accuracy_average");
    for (const auto& job : jobs_) {
      columns.push_back(
          {job.is_private ? "epsilon " + format_fixed(number_of(job.report, "epsilon"), 1) : "not private",
           Align::right});
      if (metrics.size() > 1) columns.push_back({"running average", Align::right});
    }
    Table accuracy(columns);
    for (std::size_t i = 0; i < evaluations.size(); ++i) {
      std::vector<std::string> row{std::to_string(integer_of(evaluations[i].as_object(), "round"))};
      for (const auto& job : jobs_) {
        const json::array& own = job.report.at("evaluations").as_array();
        for (const char* metric : metrics) {
          const double value = i < own.size() ? number_of(own[i].at("metrics").as_object(), metric) : std::nan("");
          row.push_back(std::isnan(value) ? "-" : format_percent(value));
        }
      }
      accuracy.add_row(row);
    }
    std::cout << accuracy.to_string("  ") << "\n" << bold(is_private() ? "Sites, in the private job" : "Sites") << "\n";

    const json::object& first = jobs_.front().report;
    const double rounds = number_of(first, "rounds_done");
    std::vector<Table::Column> site_columns{{"site"}, {"records", Align::right}, {"rounds", Align::right}};
    if (is_private()) {
      site_columns.push_back({"epsilon spent", Align::right});
      site_columns.push_back({"of its cap", Align::right});
    }
    site_columns.push_back({"down a round", Align::right});
    site_columns.push_back({"up a round", Align::right});
    Table sites(site_columns);
    for (const auto& entry : first.at("clients").as_array()) {
      const json::object& client = entry.as_object();
      std::vector<std::string> row{text_of(client, "name"), std::to_string(integer_of(client, "declared_records")),
                                   std::to_string(integer_of(client, "participations"))};
      if (is_private()) {
        row.push_back(format_fixed(number_of(client, "epsilon_spent"), 3));
        row.push_back(format_fixed(number_of(client, "epsilon_budget"), 1));
      }
      row.push_back(format_bytes(number_of(client, "bytes_down") / rounds));
      row.push_back(format_bytes(number_of(client, "bytes_up") / rounds));
      sites.add_row(row);
    }
    std::cout << sites.to_string("  ") << "\n";
    if (is_private())
      std::cout << "  unit of privacy: one record, added or removed; delta " << number_of(first, "delta")
                << "; each ledger is on its own site:\n"
                << "    trib privacy report " << site_directory(0).string() << "\n";
    std::cout << (fs::exists(root_ / "adapter" / "adapter_config.json") ? "  adapter for Hugging Face PEFT: "
                                                                        : "  model: ")
              << (root_ / "adapter").string() << "\n"
              << "  logs: " << root_.string() << "/*.log; all daemons are stopped\n"
              << "  wall time " << format_duration(seconds) << "\n";
  }

  DemoOptions options_;
  fs::path root_, programs_;
  tasks::JobSpec spec_;
  const tasks::TaskDefinition* task_ = nullptr;
  std::vector<tasks::TaskDefinition::SiteData> site_data_;
  std::unique_ptr<ChildProcess> server_;
  std::vector<std::unique_ptr<ChildProcess>> clients_;
  std::unique_ptr<AdminClient> admin_;
  std::vector<FinishedJob> jobs_;
};

}  // namespace

void add_demo_command(CLI::App& app, Exit& exit) {
  auto options = std::make_shared<DemoOptions>();
  CLI::App* command =
      app.add_subcommand("demo", "A federation of three sites on this machine: join, train, export, stop");
  command->add_option("--job", options->job, "Job file, with a [simulate] section for the sites' data")
      ->capture_default_str();
  command->add_option("--sites", options->sites, "Number of sites")->check(CLI::Range(1, 64))->capture_default_str();
  command->add_option("--models", options->models, "Directory with base models")->capture_default_str();
  command->add_option("--device", options->device, "Of every daemon: auto, cpu, cuda, cuda:N")->capture_default_str();
  command->add_option("--dir", options->directory, "Where everything of the demo goes; replaced if a demo made it")
      ->capture_default_str();
  command->add_option("--set", options->overrides, "Override a key of the job file")->type_name("SECTION.KEY=VALUE");
  command->add_flag("--private-only", options->private_only, "Leave out the same job without noise");
  command->add_flag("--json", options->json, "One JSON object on standard output");
  command->callback([options, &exit] {
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = true; };
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
    Demo demo(*options);
    const Status status = demo.run();
    demo.stop_daemons();
    exit.report(status);
  });
}

}  // namespace trib::cli
