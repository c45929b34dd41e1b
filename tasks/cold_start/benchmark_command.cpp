// `trib bench recommend`: its options, and what it prints.
#include <spdlog/fmt/fmt.h>

#include <boost/json.hpp>

#include "tasks/benchmark_options.h"
#include "tasks/cold_start/benchmark.h"

namespace trib::tasks::cold_start {

Benchmark recommend_benchmark() {
  return {.name = "recommend",
          .summary =
              "Time full ranking, and a round of clients that are one person each\n"
              "Example: trib bench recommend --users 6040 --items 3706",
          .options = {integer_option("users", "Users to rank for", 6040, 1, 10'000'000),
                      integer_option("items", "Items to rank", 3706, 20, 10'000'000),
                      integer_option("size", "Dimension of their vectors", 64, 1, 4096),
                      integer_option("clients", "Clients of the cross-device round", 1000, 1, 1'000'000)},
          .run = [](const BenchmarkArguments& arguments, Progress& progress) -> Result<BenchmarkReport> {
            const RecommendBenchmarkRequest request{.users = arguments.integer("users"),
                                                    .items = arguments.integer("items"),
                                                    .size = arguments.integer("size"),
                                                    .relevant = 30,
                                                    .clients = arguments.integer("clients")};
            TRIB_ASSIGN(const auto figures, benchmark_recommend(request, progress));
            boost::json::object document;
            for (const auto& [name, value] : figures) document[name] = value;
            BenchmarkReport report;
            report.json = boost::json::serialize(document);
            report.lines = {{"full ranking", fmt::format("{:.3f} s for {} users x {} items, all metrics",
                                                         figures.at("ranking_seconds"), request.users, request.items)},
                            {"a client", fmt::format("{:.1f} ms, {:.0f} kB up", 1e3 * figures.at("client_seconds"),
                                                     1e-3 * figures.at("contribution_bytes"))},
                            {"a round", fmt::format("{:.1f} s for {} clients, one after the other",
                                                    figures.at("round_seconds"), request.clients)},
                            {"memory", fmt::format("{:+.1f} MB between the 50th client and the last",
                                                   1e-6 * figures.at("memory_growth_bytes"))}};
            return report;
          }};
}

}  // namespace trib::tasks::cold_start
