CREATE TABLE `mqtt_incoming` (
	`client_id` text NOT NULL,
	`message_id` integer NOT NULL,
	PRIMARY KEY(`client_id`, `message_id`)
);
--> statement-breakpoint
CREATE TABLE `mqtt_queued` (
	`pk` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`client_id` text NOT NULL,
	`cmd` text NOT NULL,
	`message_id` integer,
	`topic` text NOT NULL,
	`payload` blob NOT NULL,
	`qos` integer NOT NULL,
	`retain` integer NOT NULL
);
--> statement-breakpoint
CREATE INDEX `mqtt_queued_client` ON `mqtt_queued` (`client_id`);--> statement-breakpoint
CREATE TABLE `mqtt_retained` (
	`topic` text PRIMARY KEY NOT NULL,
	`payload` blob NOT NULL,
	`qos` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `mqtt_sessions` (
	`client_id` text PRIMARY KEY NOT NULL,
	`owner` text NOT NULL,
	`seen_at` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `mqtt_subscriptions` (
	`client_id` text NOT NULL,
	`topic` text NOT NULL,
	`qos` integer NOT NULL,
	PRIMARY KEY(`client_id`, `topic`)
);
--> statement-breakpoint
CREATE TABLE `mqtt_wills` (
	`client_id` text PRIMARY KEY NOT NULL,
	`topic` text NOT NULL,
	`payload` blob NOT NULL,
	`qos` integer NOT NULL,
	`retain` integer NOT NULL
);
--> statement-breakpoint
ALTER TABLE `devices` ADD `token_hash` text;