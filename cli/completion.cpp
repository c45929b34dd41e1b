// Shell completion, made from the parser itself so that it never lags behind it.
#include <cstdio>
#include <functional>
#include <set>

#include "cli/commands.h"

namespace trib::cli {
namespace {

struct Node {
  std::string path;                // "trib_job_submit"
  std::vector<std::string> words;  // subcommands and options
};

void collect(const CLI::App& app, const std::string& path, std::vector<Node>& nodes) {
  Node node{path, {}};
  for (const CLI::App* child : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (child->get_name().empty()) continue;
    node.words.push_back(child->get_name());
  }
  for (const CLI::Option* option : app.get_options()) {
    for (const auto& name : option->get_lnames()) node.words.push_back("--" + name);
  }
  nodes.push_back(node);
  for (const CLI::App* child : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (!child->get_name().empty()) collect(*child, path + "_" + child->get_name(), nodes);
  }
}

std::string join(const std::vector<std::string>& words) {
  std::string out;
  for (const auto& word : words) out += (out.empty() ? "" : " ") + word;
  return out;
}

// Walks the words typed so far down the tree of subcommands, then offers that node's words and files.
std::string bash_script(const CLI::App& app) {
  std::vector<Node> nodes;
  collect(app, "trib", nodes);
  std::string out = "# bash completion for trib: source this file, or put it into /etc/bash_completion.d/\n_trib() {\n";
  out += "  local current=${COMP_WORDS[COMP_CWORD]} node=trib word\n";
  out += "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n    case \"${node}_$word\" in\n      ";
  std::string patterns;
  for (const auto& node : nodes)
    if (node.path != "trib") patterns += (patterns.empty() ? "" : "|") + node.path;
  out += patterns + ") node=${node}_$word ;;\n    esac\n  done\n  local words=\n  case $node in\n";
  for (const auto& node : nodes) out += "    " + node.path + ") words=\"" + join(node.words) + "\" ;;\n";
  out += "  esac\n  COMPREPLY=($(compgen -W \"$words\" -- \"$current\") $(compgen -f -- \"$current\"))\n}\n";
  out += "complete -o filenames -F _trib trib\n";
  return out;
}

std::string fish_script(const CLI::App& app) {
  std::string out = "# fish completion for trib: put this file into ~/.config/fish/completions/trib.fish\n";
  const auto every = [](const CLI::App*) { return true; };
  const std::function<void(const CLI::App&, const std::string&)> add = [&](const CLI::App& node,
                                                                           const std::string& condition) {
    for (const CLI::App* child : node.get_subcommands(every)) {
      if (child->get_name().empty()) continue;
      std::string summary = child->get_description().substr(0, child->get_description().find('\n'));
      for (std::size_t at = 0; (at = summary.find('\'', at)) != std::string::npos; at += 2) summary.insert(at, "\\");
      out += "complete -c trib -n '" + condition + "' -a " + child->get_name() + " -d '" + summary + "'\n";
      for (const CLI::Option* option : child->get_options())
        for (const auto& name : option->get_lnames())
          out += "complete -c trib -n '__fish_seen_subcommand_from " + child->get_name() + "' -l " + name + "\n";
      add(*child, "__fish_seen_subcommand_from " + child->get_name());
    }
  };
  add(app, "__fish_use_subcommand");
  return out;
}

}  // namespace

void add_completion_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("completion", "Print a completion script: source <(trib completion bash)");
  auto shell = std::make_shared<std::string>("bash");
  command->add_option("shell", *shell, "bash, zsh or fish")
      ->check(CLI::IsMember({"bash", "zsh", "fish"}))
      ->capture_default_str();
  command->callback([&app, shell] {
    std::string script;
    if (*shell == "fish") {
      script = fish_script(app);
    } else {
      if (*shell == "zsh") script = "autoload -U +X bashcompinit && bashcompinit\n";
      script += bash_script(app);
    }
    std::fputs(script.c_str(), stdout);
  });
}

}  // namespace trib::cli
