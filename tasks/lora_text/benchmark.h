// What one training step costs on this machine: `trib bench train`.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"
#include "tasks/task.h"

namespace trib::tasks::lora_text {

// A model, records, and how a site would train on them.
struct BenchmarkRequest {
  std::filesystem::path base;         // empty: random weights of `size`
  std::string size;                   // "base" or "large"
  std::string precision = "fp32";     // as in a job's [model] section
  std::vector<std::string> settings;  // further keys of a job file, "adapter.rank=16"
  std::int64_t batch = 64;            // records of every step
  std::int64_t steps = 10;            // timed, private and plain each
  std::vector<std::int64_t> lengths;  // of the records, in tokens, over and over
  std::filesystem::path data;         // or a table of texts, which `base` has a tokenizer for
  std::string format = "auto";
  std::string text_column = "text";
  std::int64_t max_tokens = 128;  // longer texts are cut
  std::vector<kernels::Device*> devices;
  std::optional<std::size_t> recorded_shapes;  // of micro-batches whose work is recorded, 0 for none; as in jobs
};

struct TrainingBenchmark {
  std::string model, device;
  std::string collective;  // that joins several devices; empty with one
  std::int64_t batch = 0, micro_batch = 0;
  double mean_tokens = 0.0;  // of a record
  std::int64_t longest_tokens = 0;
  // Medians of one step, as a job takes it: from the end of the one before it to its own.
  double private_seconds = 0.0, plain_seconds = 0.0;
  double overhead = 0.0;           // median over pairs of neighbouring steps
  double operations = 0.0;         // a second, of the frozen products in private steps
  double product_limit = 0.0;      // the same, of a large product alone on the same devices
  std::uint64_t model_memory = 0;  // bytes that the loaded model takes of a GPU; 0 on a CPU
  std::uint64_t peak_memory = 0;   // bytes; of the fullest device
  bool memory_of_device = false;   // false: of the whole process, where the device does not count
};

// Times private and plain steps in turn, on a GPU in blocks, through the session, trainer and devices that a site
// trains with, over batches of exactly request.batch records. Only adapters' B and the head train, as in a job's
// default. Errors as reading the model, the file or the settings gives them.
Result<TrainingBenchmark> benchmark_training(const BenchmarkRequest& request, Progress& progress);

// The same on the command line.
Benchmark train_benchmark();

}  // namespace trib::tasks::lora_text
