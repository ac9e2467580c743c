package cli

import "github.com/spf13/cobra"

// topic is one of the groups that --help and docs/cli show the commands in, by
// what people do with them.
type topic struct {
	id    string // the page in docs/cli
	title string
	// about is the page's first paragraph.
	about    string
	commands []*cobra.Command
}

func (s *session) topics() []topic {
	return []topic{
		{"build", "Build", "From a recipe and its lock to a bundle: a verified kernel and root file system, built from pinned sources.", []*cobra.Command{
			s.buildCommand(), s.planCommand(), s.lockCommand(), s.reproCommand(), s.diffCommand(), s.storeCommand(), s.schemaCommand(),
		}},
		{"releases", "Releases", "Bundles that anybody can check: keys, signatures, lists of what is in them, and how they were made.", []*cobra.Command{
			s.keyCommand(), s.signCommand(), s.verifyCommand(), s.sbomCommand(), s.releaseCommand(),
		}},
		{"images", "Images", "Disk and file system images of your own making, and registries.", []*cobra.Command{
			s.imageCommand(), s.ociCommand(),
		}},
		{"kernels", "Kernels", "Kernel configurations, of this project's kernels or any other.", []*cobra.Command{
			s.kernelCommand(),
		}},
		{"machines", "Machines", "A bundle's life as a virtual machine, here or on a device.", []*cobra.Command{
			s.runCommand(), s.stopCommand(), s.upCommand(), s.downCommand(), s.restartCommand(), s.updateCommand(),
			s.rollbackCommand(), s.statusCommand(), s.metricsCommand(), s.removeCommand(), s.growCommand(), s.cloneCommand(), s.exportCommand(),
			s.importCommand(), s.renameCommand(), s.acceptRollbackCommand(), s.freezeCommand(), s.thawCommand(), s.balloonCommand(),
		}},
		{"inside", "Inside a machine", "What the guest and its services do, and the way in.", []*cobra.Command{
			s.execCommand(), s.psqlCommand(), s.logsCommand(), s.consoleCommand(), s.bootChartCommand(),
			s.dsnCommand(), s.forwardCommand(), s.credentialsCommand(), s.secretCommand(), s.reindexCommand(), s.auditCommand(),
		}},
		{"backups", "Backups", "Copies of machines that are known to be restored, the places they are in, and witnesses of how new data is.", []*cobra.Command{
			s.repositoryCommand(), s.backupCommand(), s.backupsCommand(), s.restoreCommand(), s.recoverCommand(), s.witnessCommand(),
		}},
		{"devices", "Devices", "The computers that machines run on: this one, and others.", []*cobra.Command{
			s.deployCommand(), s.deviceCommand(), s.doctorCommand(),
		}},
		{"program", "This program", "Sovereign-build itself.", []*cobra.Command{
			s.completionCommand(), s.versionCommand(),
		}},
	}
}

// addTopics adds all commands to the root.
func (s *session) addTopics(root *cobra.Command) {
	for _, t := range s.topics() {
		root.AddGroup(&cobra.Group{ID: t.id, Title: t.title + ":"})
		for _, cmd := range t.commands {
			if t.id == "machines" || t.id == "inside" || t.id == "backups" || cmd.Name() == "deploy" {
				s.deviceFlag(cmd)
			}
			cmd.GroupID = t.id
			root.AddCommand(cmd)
		}
	}
}
