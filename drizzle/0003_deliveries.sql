DROP INDEX `deliveries_due`;--> statement-breakpoint
DROP INDEX `deliveries_webhook`;--> statement-breakpoint
CREATE INDEX `deliveries_due` ON `deliveries` (`webhook_pk`,`status`,`next_attempt_at`);--> statement-breakpoint
CREATE INDEX `deliveries_webhook` ON `deliveries` (`webhook_pk`);