#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "cli/admin_client.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "common/files.h"
#include "kernels/device.h"
#include "tasks/task.h"

namespace trib::cli {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

// One bar for work without steps.
class BarProgress final : public tasks::Progress {
 public:
  void step(std::int64_t, std::int64_t, double) override {}
  void fraction(std::string_view what, double done) override {
    block_.update({std::string(what) + " " + bar(done, 30) + " " + format_percent(done)});
  }
  bool cancelled() const override { return false; }

 private:
  LiveBlock block_{stderr};
};

struct ExportOptions {
  ServerOptions server;
  std::string job, out = "adapter";
  bool last_round = false, json = false;
};

Status run_export(const ExportOptions& options) {
  TRIB_ASSIGN(AdminClient client, AdminClient::connect(options.server));
  tributary::proto::AdminRequest request;
  request.mutable_export_model()->set_job_id(options.job);
  request.mutable_export_model()->set_last_round(options.last_round);
  TRIB_ASSIGN(const tributary::proto::AdminReply reply, client.exchange(request));
  TRIB_TRY(make_directories(options.out));
  json::array names;
  for (const auto& file : reply.files()) {
    // Names come from another process: they may not leave the directory.
    const fs::path name = fs::path(file.name()).filename();
    if (name.empty() || name.string() != file.name()) {
      return Error{Errc::protocol_error,
                   "the aggregator sent a file named \"" + file.name() + "\", which is not a plain name"};
    }
    TRIB_TRY(write_file_durably(fs::path(options.out) / name, file.content()));
    names.push_back(json::value(name.string()));
  }
  if (options.json) {
    std::cout << json::serialize(json::object{{"directory", options.out}, {"files", names}}) << "\n";
  } else {
    std::cout << "wrote " << names.size() << " files to " << options.out;
    if (fs::exists(fs::path(options.out) / "adapter_config.json"))
      std::cout << " (load with peft: PeftModel.from_pretrained(base, \"" << options.out << "\"))";
    std::cout << "\n";
  }
  return {};
}

struct PredictOptions {
  std::string task = "lora_text", base, adapter, data, format = "auto", text_column = "text", label_column, out,
              device = "auto";
  std::int64_t max_tokens = 128;
  bool json = false;
};

Result<tasks::Predictions> predict(const PredictOptions& options) {
  TRIB_ASSIGN(const tasks::TaskDefinition* task, tasks::find_task(options.task));
  if (!task->predict) return Error{Errc::unsupported, "the task " + options.task + " has no predictions"};
  tasks::PredictRequest request;
  request.base = options.base;
  request.adapter = options.adapter;
  request.data = options.data;
  request.format = options.format;
  request.text_column = options.text_column;
  request.label_column = options.label_column;
  request.max_tokens = options.max_tokens;
  TRIB_ASSIGN(request.device, kernels::open_device(options.device));
  BarProgress progress;
  return task->predict(request, progress);
}

Status run_predict(const PredictOptions& options) {
  TRIB_ASSIGN(const tasks::Predictions predictions, predict(options));
  const auto logits = predictions.logits.as<float>();
  const std::size_t label_count = predictions.labels.size();
  std::string text = "label";
  for (const auto& label : predictions.labels) text += "\tlogit_" + label;
  text += "\n";
  char number[32];
  for (std::size_t row = 0; row < predictions.predicted.size(); ++row) {
    text += predictions.labels[static_cast<std::size_t>(predictions.predicted[row])];
    for (std::size_t c = 0; c < label_count; ++c) {
      std::snprintf(number, sizeof number, "\t%.9g", static_cast<double>(logits[row * label_count + c]));
      text += number;
    }
    text += "\n";
  }
  if (options.out == "-") {
    std::cout << text;
    return {};
  }
  TRIB_TRY(write_file_durably(options.out, text));
  if (options.json) {
    std::cout << json::serialize(json::object{{"rows", predictions.predicted.size()}, {"out", options.out}}) << "\n";
  } else {
    std::cout << "wrote " << predictions.predicted.size() << " rows to " << options.out << "\n";
  }
  return {};
}

Status run_evaluate(const PredictOptions& options) {
  TRIB_ASSIGN(const tasks::Predictions predictions, predict(options));
  if (options.json) {
    json::object out{{"rows", predictions.predicted.size()}};
    for (const auto& [name, value] : predictions.metrics) out[name] = value;
    std::cout << json::serialize(out) << "\n";
    return {};
  }
  Table table({{"metric"}, {"value", Align::right}});
  table.add_row({"rows", std::to_string(predictions.predicted.size())});
  for (const auto& [name, value] : predictions.metrics) table.add_row({name, format_fixed(value, 4)});
  std::cout << table.to_string();
  return {};
}

void add_prediction_options(CLI::App& command, PredictOptions& options) {
  command.add_option("--base", options.base, "Base model directory (Hugging Face files)")
      ->required()
      ->check(CLI::ExistingDirectory);
  command.add_option("--adapter", options.adapter, "Adapter or model directory, as `trib model export` writes it")
      ->check(CLI::ExistingDirectory);
  command.add_option("--data", options.data, "TSV, CSV or JSONL file")->required()->check(CLI::ExistingFile);
  command.add_option("--format", options.format, "auto, tsv, csv or jsonl")
      ->check(CLI::IsMember({"auto", "tsv", "csv", "jsonl"}))
      ->capture_default_str();
  command.add_option("--text-column", options.text_column, "Column with the text")->capture_default_str();
  command.add_option("--max-tokens", options.max_tokens, "Longer texts are cut")
      ->check(CLI::Range(3, 100'000))
      ->capture_default_str();
  command.add_option("--task", options.task, "Task whose model it is")->capture_default_str();
  command.add_option("--device", options.device, "auto, cpu, cuda, cuda:N")->capture_default_str();
  command.add_flag("--json", options.json, "One JSON object on standard output");
}

}  // namespace

void add_model_commands(CLI::App& app, Exit& exit) {
  CLI::App* group = app.add_subcommand("model", "Take trained models out, and use them");
  group->require_subcommand(1);

  auto exported = std::make_shared<ExportOptions>();
  CLI::App* export_command =
      group->add_subcommand("export", "Write a job's model in the form that its task gives it, such as a PEFT adapter");
  export_command->add_option("job", exported->job, "Job id")->required()->type_name("ID");
  export_command->add_option("--out", exported->out, "Directory to write to")->capture_default_str();
  export_command->add_flag("--last-round", exported->last_round,
                           "The last round's state instead of the running average, where the task keeps one");
  export_command->add_flag("--json", exported->json, "One JSON object on standard output");
  add_server_options(*export_command, exported->server);
  export_command->callback([exported, &exit] { exit.report(run_export(*exported)); });

  auto evaluated = std::make_shared<PredictOptions>();
  CLI::App* evaluate_command = group->add_subcommand("evaluate", "Accuracy and loss of a model on a labelled file");
  add_prediction_options(*evaluate_command, *evaluated);
  evaluate_command->add_option("--label-column", evaluated->label_column, "Column with the label")
      ->default_val("label")
      ->capture_default_str();
  evaluate_command->callback([evaluated, &exit] { exit.report(run_evaluate(*evaluated)); });

  auto predicted = std::make_shared<PredictOptions>();
  CLI::App* predict_command = group->add_subcommand(
      "predict",
      "Label and logits for every row of a file\n"
      "Example: trib model predict --base base/roberta-mini-imdb --adapter adapter --data new.tsv --out labels.tsv");
  add_prediction_options(*predict_command, *predicted);
  predict_command->add_option("--out", predicted->out, "TSV file to write; - for standard output")->required();
  predict_command->callback([predicted, &exit] { exit.report(run_predict(*predicted)); });
}

}  // namespace trib::cli
