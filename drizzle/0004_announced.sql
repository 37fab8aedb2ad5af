ALTER TABLE `actors` ADD `announced` integer DEFAULT false NOT NULL;--> statement-breakpoint
ALTER TABLE `sensors` ADD `announced` integer DEFAULT false NOT NULL;