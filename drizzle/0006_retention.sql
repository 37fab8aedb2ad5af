ALTER TABLE `sensors` ADD `retention_days` integer;--> statement-breakpoint
ALTER TABLE `sensors` ADD `dropped_before` integer;