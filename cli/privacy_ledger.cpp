// `trib privacy {report, verify, export}`: what ledgers say has been spent, at a site from its file alone, and over the
// federation from what the aggregator was told.
#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <boost/json.hpp>
#include <filesystem>
#include <iostream>
#include <optional>

#include "cli/admin_client.h"
#include "cli/commands.h"
#include "cli/privacy_figures.h"
#include "cli/terminal.h"
#include "common/clock.h"
#include "common/files.h"
#include "privacy/statement.h"

namespace trib::cli {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

std::string epsilon_text(double epsilon, bool is_private) {
  return is_private ? format_fixed(epsilon, 3) : "not private";
}

std::string short_key(const std::string& key_sha256) {
  return key_sha256.substr(0, 16) + "…";
}

// --- One site, from its ledger ---

struct ReportOptions {
  std::string path;
  ServerOptions server;
  double delta = 0.0;  // 0: each data set's own
  bool json = false;
};

void print_notes(const privacy::LedgerFigures& figures) {
  for (const std::string& note : notes_of(figures)) std::cout << "  " << note << "\n";
}

Status report_ledger(const ReportOptions& options) {
  TRIB_ASSIGN(const privacy::LedgerFigures figures,
              privacy::read_figures(ledger_path(options.path),
                                    options.delta > 0.0 ? std::optional(options.delta) : std::nullopt));
  if (options.json) {
    std::cout << json::serialize(figures_json(figures)) << "\n";
    return {};
  }
  std::cout << bold("Privacy ledger") << " of " << figures.file.header.site << ", " << figures.path.string() << ": "
            << figures.file.entries.size() << " entries, every hash, signature and cap verified\n\n";
  Table sets({{"data set"},
              {"records", Align::right},
              {"version", Align::right},
              {"budget", Align::right},
              {"by filter", Align::right},
              {"of budget", Align::right},
              {"tight", Align::right},
              {"at delta"},
              {"order", Align::right},
              {"rounds", Align::right},
              {"steps", Align::right}});
  Table jobs({{"data set"}, {"job"}, {"rounds", Align::right}, {"steps", Align::right}, {"from"}, {"to"}});
  for (const privacy::DataSetFigures& set : figures.data_sets) {
    const privacy::Account& account = set.account;
    const bool has_budget = account.budget.has_value();
    sets.add_row({set.name, std::to_string(account.declared_records),
                  account.versions.empty() ? "-" : std::to_string(account.versions.back().version),
                  has_budget ? fmt::format("{:g}", account.budget->epsilon) : "-",
                  epsilon_text(set.epsilon_filter, set.is_private()),
                  has_budget && set.is_private() ? format_percent(set.epsilon_filter / account.budget->epsilon) : "-",
                  set.is_private() ? format_fixed(set.epsilon_tight, 3) : "-", fmt::format("{:g}", set.delta),
                  has_budget ? fmt::format("{:g}", account.budget->order) : "-",
                  std::to_string(account.charges + account.lost), std::to_string(account.steps)});
    for (const auto& [name, job] : account.jobs) {
      jobs.add_row({set.name, name.empty() ? "(lost entries)" : name, std::to_string(job.rounds),
                    std::to_string(job.steps), job.first_time, job.last_time});
    }
  }
  if (sets.empty()) {
    std::cout << "  nothing has been spent\n";
    return {};
  }
  std::cout << sets.to_string("  ") << "\n" << jobs.to_string("  ");
  print_notes(figures);
  return {};
}

// --- The federation, from what the aggregator was told ---

Status report_federation(const ReportOptions& options) {
  TRIB_ASSIGN(AdminClient client, AdminClient::connect(options.server));
  tributary::proto::AdminRequest request;
  request.mutable_privacy_report();
  TRIB_ASSIGN(const json::value answer, client.request(request));
  if (options.json) {
    std::cout << json::serialize(answer) << "\n";
    return {};
  }
  const auto number = [](const json::object& object, const char* key) {
    const json::value& value = object.at(key);
    return value.is_number() ? value.to_number<double>() : -1.0;
  };
  const auto optional_number = [](const json::object& object, const char* key) {
    const json::value* value = object.if_contains(key);
    return value != nullptr && value->is_number() ? value->to_number<double>() : -1.0;
  };
  Table sets({{"site"},
              {"data set"},
              {"records", Align::right},
              {"epsilon", Align::right},
              {"reserved", Align::right},
              {"of", Align::right},
              {"jobs", Align::right},
              {"rounds", Align::right},
              {"declined", Align::right},
              {"last reason"}});
  Table heads({{"site"}, {"ledger entry", Align::right}, {"hash"}, {"heard of at"}, {"key"}});
  for (const json::value& entry : answer.at("sites").as_array()) {
    const json::object& site = entry.as_object();
    const std::string name(site.at("site").as_string());
    for (const json::value& value : site.at("data_sets").as_array()) {
      const json::object& set = value.as_object();
      const json::array& declined = set.at("declined").as_array();
      const double spent = number(set, "epsilon_spent"), budget = number(set, "epsilon_budget");
      sets.add_row(
          {name, std::string(set.at("data_set").as_string()), fmt::format("{:.0f}", number(set, "declared_records")),
           epsilon_text(spent, set.at("private").as_bool()),
           optional_number(set, "epsilon_reserved") < 0.0 ? "-"
                                                          : format_fixed(optional_number(set, "epsilon_reserved"), 3),
           budget > 0.0 ? fmt::format("{:g}", budget) : "-", std::to_string(set.at("jobs").as_array().size()),
           fmt::format("{:.0f}", number(set, "rounds")),
           fmt::format("{:.0f}",
                       std::max(optional_number(set, "declined_total"), static_cast<double>(declined.size()))),
           declined.empty() ? "" : std::string(declined.back().at("reason").as_string())});
    }
    const auto* head = site.at("ledger_head").if_object();
    const json::value& key = site.at("key_sha256");
    heads.add_row({name, head == nullptr ? "-" : fmt::format("{:.0f}", number(*head, "count")),
                   head == nullptr ? "" : std::string(head->at("hash").as_string()).substr(0, 16) + "…",
                   head == nullptr || !head->at("time").is_string() ? "" : std::string(head->at("time").as_string()),
                   key.is_string() ? short_key(std::string(key.as_string())) : "-"});
  }
  std::cout << bold("Privacy in federation ") << answer.at("federation").as_string().c_str()
            << ", as the sites last reported\n\n";
  if (sets.empty()) std::cout << "  nothing has been reported yet\n";
  if (!sets.empty()) std::cout << sets.to_string("  ");
  if (!heads.empty()) std::cout << "\n" << heads.to_string("  ");
  std::cout << "  each ledger stays at its site: `trib privacy report` there shows what makes up these figures\n";
  return {};
}

Status run_report(const ReportOptions& options) {
  const bool asks_server = !options.server.server.empty();
  if (asks_server && !options.path.empty()) {
    return Error{Errc::invalid_argument, "give a ledger, or --server for the federation's view, not both"};
  }
  if (!asks_server && options.path.empty()) {
    return Error{Errc::invalid_argument,
                 "give a site's directory or its ledger file, or --server DIR|HOST:PORT for the federation's view"};
  }
  return asks_server ? report_federation(options) : report_ledger(options);
}

// --- Verification ---

struct VerifyOptions {
  std::string path, certificate, ledger;
  bool json = false;
};

// The entry that a statement names as its ledger's head must be in this ledger.
Status check_head(const privacy::Statement& statement, const fs::path& path) {
  TRIB_ASSIGN(const privacy::LedgerFigures figures, privacy::read_figures(path));
  const json::object& ledger = statement.document.at("ledger").as_object();
  const auto count = ledger.at("head").at("count").to_number<std::int64_t>();
  const auto& hash = ledger.at("head").at("hash").as_string();
  if (figures.file.header.id != ledger.at("id").as_string()) {
    return Error{Errc::corrupt, fmt::format("the statement was made from another ledger than '{}'", path.string())};
  }
  if (count == 0) return {};
  for (const privacy::LedgerEntry& entry : figures.file.entries) {
    if (entry.number == count && to_hex(entry.hash) == std::string_view(hash)) return {};
  }
  return Error{Errc::corrupt, fmt::format("'{}' has no entry {} with the hash {}: it was cut or rewritten since the "
                                          "statement was made",
                                          path.string(), count, std::string_view(hash))};
}

Status verify_one_statement(const VerifyOptions& options, const std::string& text) {
  TRIB_ASSIGN(const privacy::Statement statement, privacy::verify_statement(text, options.path));
  if (!options.certificate.empty()) {
    TRIB_TRY(check_certificate(options.certificate, statement.key_sha256, statement.site));
  }
  if (!options.ledger.empty()) TRIB_TRY(check_head(statement, ledger_path(options.ledger)));
  if (options.json) {
    std::cout << json::serialize(json::object{{"statement", options.path},
                                              {"site", statement.site},
                                              {"verified", true},
                                              {"certificate_checked", !options.certificate.empty()},
                                              {"ledger_checked", !options.ledger.empty()},
                                              {"hash", statement.hash},
                                              {"key_sha256", statement.key_sha256}})
              << "\n";
    return {};
  }
  std::cout << options.path << ": the statement of " << statement.site << " is sound: its signature holds, and every "
            << "epsilon follows from its mechanisms\n  signed with key " << statement.key_sha256 << "\n";
  if (!options.certificate.empty()) std::cout << "  which is the key of " << options.certificate << "\n";
  if (options.certificate.empty()) {
    std::cout << "  whose key that is, --certificate FILE tells\n";
  }
  if (!options.ledger.empty()) std::cout << "  " << options.ledger << " still has the entry that it was made at\n";
  return {};
}

Status verify_one_ledger(const VerifyOptions& options) {
  const fs::path path = ledger_path(options.path);
  std::error_code error;
  fs::path certificate = options.certificate;
  if (certificate.empty() && path != options.path && fs::exists(fs::path(options.path) / "certificate.pem", error)) {
    certificate = fs::path(options.path) / "certificate.pem";
  }
  TRIB_ASSIGN(const privacy::LedgerFigures figures, privacy::read_figures(path));
  if (!certificate.empty()) TRIB_TRY(check_certificate(certificate, figures.key_sha256, figures.file.header.site));
  if (options.json) {
    json::object document = figures_json(figures);
    document["certificate_checked"] = !certificate.empty();
    std::cout << json::serialize(document) << "\n";
    return {};
  }
  std::cout << path.string() << ": " << figures.file.entries.size()
            << " entries, every hash, signature, number and cap verified\n  site " << figures.file.header.site
            << ", signed with key " << figures.key_sha256 << "\n  "
            << (certificate.empty() ? "whose key that is, --certificate FILE tells"
                                    : "which is the key of " + certificate.string())
            << "\n  head: entry " << figures.file.head.count << ", " << to_hex(figures.file.head.hash) << "\n";
  for (const privacy::DataSetFigures& set : figures.data_sets) {
    std::cout << "  " << set.name << ": ";
    if (!set.is_private()) {
      std::cout << "not private\n";
    } else if (!set.account.budget) {
      std::cout << "nothing spent\n";
    } else {
      std::cout << fmt::format("epsilon {:.4f} by the filter of {:g} (delta {:g}, order {:g}), {:.4f} tight\n",
                               set.epsilon_filter, set.account.budget->epsilon, set.account.budget->delta,
                               set.account.budget->order, set.epsilon_tight);
    }
  }
  print_notes(figures);
  return {};
}

Status run_verify(const VerifyOptions& options) {
  std::error_code error;
  if (fs::is_regular_file(options.path, error)) {
    TRIB_ASSIGN(const std::string text, read_file(options.path));
    // A ledger's first line is an object of its own; a statement's is not.
    const bool is_statement = text.find("\"tributary-privacy-statement\"") < text.find("\"tributary-privacy-ledger\"");
    if (is_statement) return verify_one_statement(options, text);
  }
  if (!options.ledger.empty()) {
    return Error{Errc::invalid_argument, "--ledger is for a statement: it names the ledger that one was made from"};
  }
  return verify_one_ledger(options);
}

// --- The officer's statement ---

struct ExportOptions {
  std::string path, directory = "privacy-statement", key;
  bool json = false;
};

Status run_export(const ExportOptions& options) {
  const fs::path path = ledger_path(options.path);
  const fs::path key_file = options.key.empty() ? path.parent_path() / "key.pem" : fs::path(options.key);
  TRIB_ASSIGN(const privacy::LedgerFigures figures, privacy::read_figures(path));
  const auto pem = read_file(key_file);
  if (!pem) {
    return pem.error().with_context("a statement is signed with the site's key (key.pem beside the ledger, or --key)");
  }
  TRIB_ASSIGN(const std::shared_ptr<const Signer> signer, signer_from_pem(*pem));
  TRIB_ASSIGN(const std::string text, privacy::make_statement(figures, to_iso8601(system_clock().wall_now()), *signer));
  // What is handed out is what a reader will find: the page is made of the verified file.
  TRIB_ASSIGN(const privacy::Statement statement, privacy::verify_statement(text, "statement.json"));
  const fs::path directory = options.directory;
  TRIB_TRY(make_directories(directory));
  TRIB_TRY(write_file_durably(directory / "statement.json", text));
  TRIB_TRY(write_file_durably(directory / "statement.html", privacy::statement_page(statement)));
  const fs::path certificate = path.parent_path() / "certificate.pem";
  std::error_code error;
  const bool has_certificate = fs::exists(certificate, error);
  if (has_certificate) {
    TRIB_TRY(check_certificate(certificate, figures.key_sha256, figures.file.header.site));
    TRIB_ASSIGN(const std::string certificate_pem, read_file(certificate));
    TRIB_TRY(write_file_durably(directory / "certificate.pem", certificate_pem));
  }
  if (options.json) {
    std::cout << json::serialize(json::object{{"statement", (directory / "statement.json").string()},
                                              {"page", (directory / "statement.html").string()},
                                              {"hash", statement.hash},
                                              {"key_sha256", statement.key_sha256}})
              << "\n";
    return {};
  }
  std::cout << "the privacy statement of " << statement.site << ":\n  to read and print   "
            << (directory / "statement.html").string() << "\n  to verify           trib privacy verify "
            << (directory / "statement.json").string()
            << (has_certificate ? " --certificate " + (directory / "certificate.pem").string() : "") << "\n";
  return {};
}

// --- A site's statement, as the aggregator has it ---

struct StatementOptions {
  ServerOptions server;
  std::string site, directory = "privacy-statement";
  bool json = false;
};

Status run_statement(const StatementOptions& options) {
  TRIB_ASSIGN(AdminClient client, AdminClient::connect(options.server));
  tributary::proto::AdminRequest request;
  request.mutable_site_statement()->set_site(options.site);
  TRIB_ASSIGN(const json::value answer, client.request(request));
  const std::string text(answer.at("statement").as_string());
  // What the aggregator hands out is not believed: signature and every epsilon are computed here.
  TRIB_ASSIGN(const privacy::Statement statement, privacy::verify_statement(text, options.site));
  const fs::path directory = options.directory;
  TRIB_TRY(make_directories(directory));
  TRIB_TRY(write_file_durably(directory / "statement.json", text));
  TRIB_TRY(write_file_durably(directory / "statement.html", privacy::statement_page(statement)));
  const std::string received(answer.at("received").as_string());
  if (options.json) {
    std::cout << json::serialize(json::object{{"statement", (directory / "statement.json").string()},
                                              {"page", (directory / "statement.html").string()},
                                              {"received", received},
                                              {"hash", statement.hash},
                                              {"key_sha256", statement.key_sha256}})
              << "\n";
    return {};
  }
  std::cout << "the newest statement of " << statement.site << ", received at " << received
            << "; its signature and every epsilon are verified\n  to read and print   "
            << (directory / "statement.html").string() << "\n  signed with key     " << statement.key_sha256
            << "\n  the site is asked for a fresh one: repeat the command in a moment to have it\n";
  return {};
}

}  // namespace

void add_privacy_ledger_commands(CLI::App& privacy, Exit& exit) {
  auto report = std::make_shared<ReportOptions>();
  CLI::App* report_command = privacy.add_subcommand(
      "report",
      "What has been spent: at one site, from its ledger, which is verified first; or over a federation, as the sites\n"
      "last reported\n"
      "Examples: trib privacy report /var/lib/tributary/site\n"
      "          trib privacy report --server federation");
  report_command->add_option("ledger", report->path, "A site's directory, or its ledger file")->type_name("PATH");
  report_command->add_option("--delta", report->delta, "Delta of the tight epsilon (default: each data set's budget's)")
      ->check(CLI::Range(1e-15, 0.5));
  report_command->add_flag("--json", report->json, "One JSON object on standard output");
  add_server_options(*report_command, report->server);
  report_command->callback([report, &exit] { exit.report(run_report(*report)); });

  auto statement = std::make_shared<StatementOptions>();
  CLI::App* statement_command = privacy.add_subcommand(
      "statement",
      "The newest signed statement that a site has sent to its aggregator, verified here, as JSON and as a page\n"
      "Example: trib privacy statement st-mary --server federation");
  statement_command->add_option("site", statement->site, "The site's name")->required();
  statement_command->add_option("--out", statement->directory, "Where statement.json and statement.html go")
      ->type_name("DIR")
      ->capture_default_str();
  statement_command->add_flag("--json", statement->json, "One JSON object on standard output");
  add_server_options(*statement_command, statement->server);
  statement_command->callback([statement, &exit] { exit.report(run_statement(*statement)); });

  auto verify = std::make_shared<VerifyOptions>();
  CLI::App* verify_command = privacy.add_subcommand(
      "verify",
      "Recompute a ledger from its file alone: every hash, signature, number, decision of a cap and epsilon; or a\n"
      "statement that was made from one. Exit code 1 names the first bad entry");
  verify_command->add_option("path", verify->path, "A site's directory, its ledger file, or a statement.json")
      ->required()
      ->type_name("PATH");
  verify_command
      ->add_option("--certificate", verify->certificate,
                   "The site's certificate: also check that the key is its (found by itself in a site's directory)")
      ->type_name("FILE");
  verify_command
      ->add_option("--ledger", verify->ledger,
                   "For a statement: also check that this ledger still has what it was made of")
      ->type_name("PATH");
  verify_command->add_flag("--json", verify->json, "One JSON object on standard output");
  verify_command->callback([verify, &exit] { exit.report(run_verify(*verify)); });

  auto options = std::make_shared<ExportOptions>();
  CLI::App* export_command = privacy.add_subcommand(
      "export",
      "A statement for the data-protection officer: JSON signed with the site's key, and a page to read and print\n"
      "Example: trib privacy export /var/lib/tributary/site --out statement-2026");
  export_command->add_option("ledger", options->path, "A site's directory, or its ledger file")
      ->required()
      ->type_name("PATH");
  export_command->add_option("--out", options->directory, "Where statement.json and statement.html go")
      ->type_name("DIR")
      ->capture_default_str();
  export_command->add_option("--key", options->key, "The site's private key (default: key.pem beside the ledger)")
      ->type_name("FILE");
  export_command->add_flag("--json", options->json, "One JSON object on standard output");
  export_command->callback([options, &exit] { exit.report(run_export(*options)); });
}

}  // namespace trib::cli
